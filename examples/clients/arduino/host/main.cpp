// Runs the sketch on a host:  main DIRECTORY, which is its flash. Ends when it is online, with 3 when it has stopped.
#include <unistd.h>

#include "Arduino.h"
#include "../arduino.ino"

int main(int count, char **arguments) {
  if (count != 2 || chdir(arguments[1])) return 2;
  setup();
  while (!isOnline && machine.state != PROVISION_STOPPED) loop();
  mqtt.disconnect();
  if (machine.state != PROVISION_STOPPED) return 0;
  tell(nullptr, "stopped:", machine.reason);
  return 3;
}
