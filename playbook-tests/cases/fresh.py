"""A fresh install: everything enabled and running, a pod proved to run, and nothing besides."""

from vm.node import expect

NEEDS, ORDER = "bare", 1


def run(node):
    report = node.first_install()
    node.state = "used"
    print(f"fresh: changed={report['changed']}, install took {report['duration_ms'] / 1000:.0f} s", flush=True)
    expect(report["changed"] > 0, f"a fresh install changed nothing: {report}")
    expect(report["selftest"], f"no pod was run: {report}")
    node.expect_healthy()
    # The packages' own units would bring a second stack up.
    for unit in ("containerd.service", "docker.socket"):
        state = node.ssh(f"systemctl is-active {unit}; systemctl is-enabled {unit}", check=False)
        expect("active" not in state.replace("inactive", "").split(), f"{unit}: {state}")
        expect("enabled" not in state.split(), f"{unit}: {state}")
    errors = node.ssh("journalctl -b --no-pager -u ocid -t ocid -p err -o cat", check=False)
    expect(errors in ("", "-- No entries --"), f"the daemon complains: {errors}")
    node.state = "node"
