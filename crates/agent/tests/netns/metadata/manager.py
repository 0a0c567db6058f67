# A service manager for one program, as far as systemd's notifications and its
# file descriptor store go (sd_notify(3), sd_listen_fds(3)).
#
#   manager.py SOCKET PROGRAM…
#
# Orders come on standard input, a letter each: r restarts it (SIGTERM, and a new
# start when it has ended), k kills it and starts it anew. At the input's end the
# program is killed. What happens is told on standard output, one line each.
import fcntl
import os
import select
import signal
import socket
import sys

path, command = sys.argv[1], sys.argv[2:]
notifications = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notifications.bind(path)
os.chmod(path, 0o666)
stored = {}


def start():
    child = os.fork()
    if child:
        return child
    environment = dict(os.environ, NOTIFY_SOCKET=path, LISTEN_PID=str(os.getpid()))
    environment.update(LISTEN_FDS=str(len(stored)), LISTEN_FDNAMES=":".join(stored))
    # Out of the way first: the numbers from 3 on are in use.
    aside = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100) for fd in stored.values()]
    for number, fd in enumerate(aside):
        os.dup2(fd, 3 + number)
    os.execvpe(command[0], command, environment)


def end(child, how):
    os.kill(child, how)
    _, status = os.waitpid(child, 0)
    print("ended", status, flush=True)


def hear():
    text, fds, _, _ = socket.recv_fds(notifications, 4096, 16)
    lines = text.decode().splitlines()
    name = next((line[7:] for line in lines if line.startswith("FDNAME=")), "stored")
    for fd in fds:
        os.set_inheritable(fd, False)
        stored[name] = fd
        print("kept", name, flush=True)
    if "FDSTOREREMOVE=1" in lines and name in stored:
        os.close(stored.pop(name))
        print("forgot", name, flush=True)
    if "READY=1" in lines:
        print("ready", flush=True)


child = start()
while True:
    readable, _, _ = select.select([notifications, 0], [], [])
    if notifications in readable:
        hear()
        continue
    order = os.read(0, 1)
    end(child, signal.SIGTERM if order == b"r" else signal.SIGKILL)
    if not order:
        break
    child = start()
