"""What a project's own tests look like: nothing is configured, nothing has to run beforehand."""


def test_a_device_gets_its_credential(provision_request, device):
    request = provision_request("thermometer-1")
    outcome = device(request).claim()
    assert outcome.credential.username == "p.default.thermometer-1.g1"
    assert request.phase == "CONFIRMED"


def test_a_revoked_device_is_told_to_stop(provision_request, device):
    request = provision_request()
    device(request).claim()
    request.do("revoke")
    assert not device(request).claim().is_confirmed


def test_our_fleet_survives_a_bad_network(fleet, faults):
    network = faults(lost=0.2, doubled=0.2, seed=7)
    times = {"reply": 0.2, "first_pause": 0.1}
    assert fleet(20, through=network, times=times).confirmed == 20
    assert network.toll["lost"] > 0


def test_everything_that_firmware_needs_is_there(provisioner, provision_request):
    request = provision_request()
    host, port = provisioner.endpoint.split(":")
    print(f"claim at {host}:{port} as {provisioner.user} with client id {request.client_id} and its activation key")
    assert provisioner.get("/v2/accounts/default")["name"] == "default"
    assert len(request.activation_key) == 32
