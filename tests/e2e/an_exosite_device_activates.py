"""docs/exosite.md, executed with curl; and the document's own request, byte for byte, over a plain socket."""

import re
import socket
import subprocess

from tests.e2e.program import ROOT, Program, Site, StartProgram, fresh_name
from tests.programs import needed

PAGE = (ROOT / "docs" / "exosite.md").read_text(encoding="utf-8")


def test_the_page_does_what_it_says(start_program: StartProgram) -> None:
    needed("curl", "curl")
    needed("mosquitto_pub", "mosquitto-clients")
    program = start_program()
    script = "set -eu\n" + "".join(re.findall(r"(?ms)^```sh\n(.*?)^```$", PAGE))
    script = script.replace("http://127.0.0.1:8080", program.http).replace("data/admin-token", "$DATA/admin-token")
    script = script.replace("-p 1883", f"-p {program.device_broker[1]}") + 'echo "CIK $CIK"\n'
    environment = {"PATH": "/usr/bin:/bin", "DATA": str(program.data)}
    done = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
    request_id, pending, activated, *log, told = done.stdout.splitlines()
    assert pending == f"Pending Activation,{request_id},hall"
    assert activated == f"Activated,{request_id},hall"
    assert [line.split(",")[1:] for line in log] == [
        ["", "create"],
        ["127.0.0.1", '"claim: minted', ' offered"'],
        ["127.0.0.1", "login: first login"],
    ]
    cik = told.removeprefix("CIK ")
    assert re.fullmatch("[0-9a-f]{40}", cik)
    program.secrets |= {program.token, cik}


def said(program: Program, body: str) -> tuple[str, str]:
    """Status line and body of the answer to the document's request."""
    host, _, port = program.http.removeprefix("http://").rpartition(":")
    request = (
        "POST /provision/activate HTTP/1.1\r\n"
        "Host: m2.exosite.com\r\n"
        "Content-Type: application/x-www-form-urlencoded; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    )
    with socket.create_connection((host, int(port)), timeout=10) as connection, connection.makefile("rb") as answer:
        connection.sendall(request.encode())
        status = answer.readline().decode().strip()
        size = 0
        while line := answer.readline().strip():
            name, _, value = line.decode().partition(": ")
            size = int(value) if name.lower() == "content-length" else size
        return status, answer.read(size).decode()


async def test_the_request_of_the_document_gets_each_of_its_four_answers(site: Site) -> None:
    program, vendor = site.program, fresh_name("vendor")
    await site.account(vendor)
    headers, manage = {"X-Exosite-Vendor": vendor}, "/provision/manage/model"

    async def tell(path: str, **form: str) -> None:
        await site.operator.ask("POST", f"{manage}{path}", (200, 205), data=form, headers=headers)

    sn = fresh_name("sn")
    form = f"vendor={vendor}&model=thermo&sn={sn}"
    assert said(program, form)[0] == "HTTP/1.1 403 Forbidden"
    await tell("/", model="thermo")
    assert said(program, form)[0] == "HTTP/1.1 404 Not Found"
    await tell("/thermo/", sn=sn)
    assert said(program, form)[0] == "HTTP/1.1 409 Conflict"
    await tell(f"/thermo/{sn}", enable="true")
    status, cik = said(program, form)
    assert status == "HTTP/1.1 200 OK"
    assert said(program, form) == (status, cik)  # the answer was lost
    program.secrets.add(cik)
    device = site.device(sn, "")
    login = {"username": sn, "password": cik, "clientId": sn}
    async with await device.login(program.device_broker, login) as session:
        await session.ping()
    assert said(program, form)[0] == "HTTP/1.1 409 Conflict"
