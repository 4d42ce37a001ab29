#!/usr/bin/env python3
"""Shows every change that a process is about to make, before it is made, and decides about it.

Guarantees: all threads of the process are traced, also those that come later, and none of the
processes that it starts. A call counts that changes a file below one of the folders or in an
instance's control group, or that starts or signals a process or orders a QEMU; one that only looks
does not, since a kill there leaves what a kill at the next change leaves. A process that is killed
at a call has not made it. When this program ends, so does the process.

Prints a line of JSON for each change, and at "attached", "killed" and "ended".
"""

import argparse
import ctypes
import errno
import json
import os
import platform
import signal
import struct
import sys

# ptrace(2).
PTRACE_POKEUSER, PTRACE_SEIZE, PTRACE_INTERRUPT = 6, 0x4206, 0x4207
PTRACE_SYSCALL, PTRACE_GET_SYSCALL_INFO = 24, 0x420E
TRACESYSGOOD, TRACECLONE, EXITKILL = 1, 8, 0x100000
ENTRY, WALL = 1, 0x40000000
# In `struct user` of x86-64.
RAX, ORIG_RAX = 80, 120

O_CHANGES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
AT_FDCWD, AF_UNIX, CLONE_THREAD, FICLONE = -100, 1, 0x10000, 0x40049409

# Numbers of x86-64: (name, what its arguments are, whether it takes room on the disk).
CALLS = {
    1: ("write", "data", True), 18: ("pwrite64", "data", True), 20: ("writev", "vector", True),
    296: ("pwritev", "vector", True), 328: ("pwritev2", "vector", True),
    44: ("sendto", "data", False), 46: ("sendmsg", "message", False),
    2: ("open", "open", True), 257: ("openat", "openat", True), 85: ("creat", "path", True),
    83: ("mkdir", "path", True), 258: ("mkdirat", "at", True), 84: ("rmdir", "path", False),
    87: ("unlink", "path", False), 263: ("unlinkat", "at", False),
    82: ("rename", "paths", False), 264: ("renameat", "ats", False), 316: ("renameat2", "ats", False),
    86: ("link", "paths", True), 265: ("linkat", "ats", True), 88: ("symlink", "second", True),
    266: ("symlinkat", "second_at", True), 90: ("chmod", "path", False), 268: ("fchmodat", "at", False),
    280: ("utimensat", "at", False), 76: ("truncate", "path", False), 91: ("fchmod", "file", False),
    77: ("ftruncate", "file", False), 285: ("fallocate", "file", True), 74: ("fsync", "file", False),
    75: ("fdatasync", "file", False), 306: ("syncfs", "file", False), 40: ("sendfile", "file", True),
    326: ("copy_file_range", "third_file", True), 16: ("ioctl", "clone_file", True),
    49: ("bind", "address", True), 56: ("clone", "clone", False), 435: ("clone3", "clone3", False),
    57: ("fork", "process", False), 58: ("vfork", "process", False),
    62: ("kill", "signal", False), 424: ("pidfd_send_signal", "signal", False),
}

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


def ptrace(request, thread, address=0, data=0):
    if libc.ptrace(request, thread, address, data) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def say(**what):
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def signed(number):
    return struct.unpack("i", struct.pack("Q", number)[:4])[0]


class Call:
    """A call as a thread is about to make it."""

    def __init__(self, thread, number, arguments):
        self.thread, self.number, self.arguments = thread, number, arguments

    def memory(self, address, length):
        """What is there of it: the last page may not be."""
        data = b""
        try:
            memory = os.open(f"/proc/{self.thread}/mem", os.O_RDONLY)
        except OSError:
            return data
        try:
            while len(data) < length:
                at = address + len(data)
                part = os.pread(memory, min(length - len(data), 4096 - at % 4096), at)
                if not part:
                    break
                data += part
        except (OSError, OverflowError):
            pass
        finally:
            os.close(memory)
        return data

    def text(self, index):
        return self.memory(self.arguments[index], 4096).partition(b"\0")[0].decode(errors="replace")

    def link(self, name):
        try:
            return os.readlink(f"/proc/{self.thread}/{name}")
        except OSError:
            return ""

    def file(self, index):
        return self.link(f"fd/{signed(self.arguments[index])}")

    def resolve(self, text, directory=None):
        for own in ("/proc/self/fd/", "/proc/thread-self/fd/"):
            if text.startswith(own):
                number, _, rest = text[len(own):].partition("/")
                return os.path.join(self.link(f"fd/{number}"), rest)
        if text.startswith("/"):
            return text
        if directory is None or signed(self.arguments[directory]) == AT_FDCWD:
            return os.path.join(self.link("cwd"), text)
        return os.path.join(self.file(directory), text)

    def path(self, index, directory=None):
        return self.resolve(self.text(index), directory)

    def data(self, kind):
        address, length = self.arguments[1], self.arguments[2]
        if kind == "message":
            address = int.from_bytes(self.memory(address + 16, 8), "little")
        if kind in ("message", "vector"):
            first = self.memory(address, 16)
            address, length = (int.from_bytes(first[at:at + 8], "little") for at in (0, 8))
        return self.memory(address, min(length, 100))

    def change(self, roots):
        """(call, target, whether it takes room), when it changes something that is watched."""
        known = CALLS.get(self.number)
        if not known:
            return None
        name, kind, room = known
        if kind in ("data", "vector", "message"):
            target = self.file(0)
            if target.startswith("socket:"):
                data = self.data(kind)
                order = data.startswith(b"{") and data.decode(errors="replace").strip()
                return (name, order, False) if order else None
            paths = [target]
        elif kind in ("open", "openat"):
            at = kind == "openat"
            if not signed(self.arguments[1 + at]) & O_CHANGES:
                return None
            paths = [self.path(1, 0) if at else self.path(0)]
            # A file that is there takes no room by being opened.
            room = not os.path.lexists(paths[0])
        elif kind == "path":
            paths = [self.path(0)]
        elif kind == "at":
            paths = [self.path(1, 0)]
        elif kind == "paths":
            paths = [self.path(0), self.path(1)]
        elif kind == "ats":
            paths = [self.path(1, 0), self.path(3, 2)]
        elif kind == "second":
            paths = [self.path(1)]
        elif kind == "second_at":
            paths = [self.path(2, 1)]
        elif kind == "file":
            paths = [self.file(0)]
        elif kind == "third_file":
            paths = [self.file(2)]
        elif kind == "clone_file":
            if self.arguments[1] & 0xFFFFFFFF != FICLONE:
                return None
            name, paths = "ioctl_ficlone", [self.file(0)]
        elif kind == "address":
            address = self.memory(self.arguments[1], min(self.arguments[2], 110))
            if address[:2] != struct.pack("H", AF_UNIX) or address[2:3] in (b"", b"\0"):
                return None
            paths = [self.resolve(address[2:].partition(b"\0")[0].decode(errors="replace"))]
        elif kind == "signal":
            if not self.arguments[1]:
                return None
            whom, what = signed(self.arguments[0]), self.arguments[1]
            return name, f"{whom}, signal {what}", room
        else:
            flags = self.arguments[0]
            if kind == "clone3":
                flags = int.from_bytes(self.memory(flags, 8), "little")
            if kind != "process" and flags & CLONE_THREAD:
                return None
            return name, "a process", room
        if not any(is_watched(path, roots) for path in paths):
            return None
        # No control group takes room, and no file that has no name any more.
        room = room and not paths[-1].startswith("/sys/")
        return name, " -> ".join(paths), room


def is_watched(path, roots):
    group = path.startswith("/sys/fs/cgroup/") and "/wakegate/" in path
    return group or any(path == root or path.startswith(root + "/") for root in roots)


def below(roots, own):
    """The processes whose working directory is below one of the folders."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            place = os.readlink(f"/proc/{name}/cwd")
        except OSError:
            continue
        if int(name) not in own and any(place.startswith(root + "/") for root in roots):
            yield int(name)


def seize(pid):
    """Seizes all threads. Those that begin later come traced, once their maker is."""
    seen = set()
    while True:
        new = [int(name) for name in os.listdir(f"/proc/{pid}/task") if int(name) not in seen]
        if not new:
            return
        for thread in new:
            seen.add(thread)
            try:
                ptrace(PTRACE_SEIZE, thread, 0, TRACESYSGOOD | TRACECLONE | EXITKILL)
                ptrace(PTRACE_INTERRUPT, thread)
            except OSError as error:
                # It has ended, or came traced.
                if error.errno != errno.ESRCH and (error.errno != errno.EPERM or len(seen) == 1):
                    raise


def entered(thread, buffer):
    """The call that a thread is about to make; None at the end of one."""
    ptrace(PTRACE_GET_SYSCALL_INFO, thread, len(buffer), ctypes.addressof(buffer))
    if buffer.raw[0] != ENTRY:
        return None
    number, *arguments = struct.unpack_from("7Q", buffer.raw, 24)
    return Call(thread, number, arguments)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pid", type=int)
    parser.add_argument("roots", nargs="+")
    parser.add_argument("--kill", type=int, metavar="N", help="kill the process at its change N, from 0")
    parser.add_argument("--full", type=int, metavar="N", help="no room on the disk from change N on")
    parser.add_argument("--kill-others", type=int, metavar="N",
                        help="at change N kill the processes that work below the folders")
    options = parser.parse_args()
    if platform.machine() != "x86_64":
        sys.exit("only the system calls of x86-64 are known")
    roots = [os.path.realpath(root) for root in options.roots]
    try:
        seize(options.pid)
    except OSError as error:
        say(refused=str(error))
        return
    say(attached=True)
    buffer, count, killed = ctypes.create_string_buffer(88), 0, False
    while True:
        try:
            thread, status = os.waitpid(-1, WALL)
        except ChildProcessError:
            break
        if not os.WIFSTOPPED(status):
            continue
        what, event = os.WSTOPSIG(status), status >> 16
        pass_on = 0
        try:
            if what == signal.SIGTRAP | 0x80:
                call = None if killed else entered(thread, buffer)
                change = call and call.change(roots)
                if change:
                    name, target, room = change
                    say(n=count, call=name, target=target, room=room)
                    if options.kill == count:
                        # A thread that dies at the beginning of a call skips it.
                        os.kill(options.pid, signal.SIGKILL)
                        killed = True
                        say(killed=count)
                    if options.kill_others == count:
                        for other in below(roots, (options.pid, os.getpid())):
                            os.kill(other, signal.SIGKILL)
                        say(killed_others=count)
                    if room and options.full is not None and count >= options.full:
                        # A call without a number is skipped, and returns what is there.
                        ptrace(PTRACE_POKEUSER, thread, ORIG_RAX, -1)
                        ptrace(PTRACE_POKEUSER, thread, RAX, -errno.ENOSPC)
                    count += 1
                    if killed:
                        continue
            elif not event:
                pass_on = what
            ptrace(PTRACE_SYSCALL, thread, 0, pass_on)
        except OSError as error:
            # One that was killed meanwhile goes nowhere.
            if error.errno != errno.ESRCH:
                raise
    say(ended=True)


main()
