"""Build filters with libseccomp and print the programs.

Reads a JSON list of {default, archs, optimize, rules: [{action, name, args: [[index, op, value, value_two]]}]}, where an
action is a number as the kernel's return values are, and writes a list of {program: hex} or {error: text}.
"""
import json
import os
import signal
import sys
import tempfile

import seccomp

ARCHS = {
    "SCMP_ARCH_X86_64": seccomp.Arch.X86_64,
    "SCMP_ARCH_X86": seccomp.Arch.X86,
    "SCMP_ARCH_X32": seccomp.Arch.X32,
    "SCMP_ARCH_AARCH64": seccomp.Arch.AARCH64,
    "SCMP_ARCH_ARM": seccomp.Arch.ARM,
}
OPS = {
    "SCMP_CMP_NE": seccomp.NE,
    "SCMP_CMP_LT": seccomp.LT,
    "SCMP_CMP_LE": seccomp.LE,
    "SCMP_CMP_EQ": seccomp.EQ,
    "SCMP_CMP_GE": seccomp.GE,
    "SCMP_CMP_GT": seccomp.GT,
    "SCMP_CMP_MASKED_EQ": seccomp.MASKED_EQ,
}


def action(value):
    """The bindings take actions as C ints, SCMP_ACT_KILL_PROCESS too."""
    return value - (1 << 32) if value >= 1 << 31 else value


def build(job):
    f = seccomp.SyscallFilter(action(job["default"]))
    for name in job["archs"]:
        if not f.exist_arch(ARCHS[name]):
            f.add_arch(ARCHS[name])
    if job["optimize"]:
        f.set_attr(seccomp.Attr.CTL_OPTIMIZE, 2)
    for rule in job["rules"]:
        args = [seccomp.Arg(i, OPS[op], a, b) for i, op, a, b in rule["args"]]
        f.add_rule(action(rule["action"]), rule["name"], *args)
    with tempfile.TemporaryFile() as out:
        f.export_bpf(out)
        out.seek(0)
        return out.read().hex()


def build_apart(job):
    """Build in a child with a time limit: for some sets of rules the library never returns, or crashes."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(3)
        try:
            result = {"program": build(job)}
        except Exception as e:
            result = {"error": "%s: %s" % (type(e).__name__, e)}
        with os.fdopen(writer, "w") as out:
            json.dump(result, out)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:
        return {"died": -status}
    return json.loads(text)


def main():
    json.dump([build_apart(job) for job in json.load(sys.stdin)], sys.stdout)


if seccomp.get_api() < 6:
    try:
        seccomp.set_api(6)
    except Exception:
        pass
main()
