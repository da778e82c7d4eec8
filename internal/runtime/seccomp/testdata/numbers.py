"""Print what libseccomp knows: a JSON object, architecture -> name -> number, for the names in the JSON list read."""
import json
import sys

import seccomp

ARCHS = {
    "amd64": seccomp.Arch.X86_64,
    "386": seccomp.Arch.X86,
    "x32": seccomp.Arch.X32,
    "arm64": seccomp.Arch.AARCH64,
    "arm": seccomp.Arch.ARM,
}


def numbers(arch, names):
    found = {}
    for name in names:
        try:
            found[name] = seccomp.resolve_syscall(arch, name)
        except (ValueError, RuntimeError):
            pass
    return found


names = json.load(sys.stdin)
json.dump({arch: numbers(token, names) for arch, token in ARCHS.items()}, sys.stdout)
