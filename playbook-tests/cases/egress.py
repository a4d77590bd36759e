"""A machine that reaches its package mirror and nothing else; then one that reaches nothing, with everything there."""

from vm.node import UPLOAD, expect

NEEDS, ORDER, EGRESS = "bare", 60, True
PROXY = "/etc/apt/apt.conf.d/zz-test-mirror"


def run(node):
    # The distribution's own archive, signed, its lists not there yet.
    node.ssh("cp /etc/apt/sources.list /srv/own.list && cp /srv/sources.list /etc/apt/sources.list")
    report = node.install()
    expect(report["changed"] > 0 and report["selftest"], f"packages only: {report}")
    node.expect_healthy()
    node.expect_unchanged()
    node.ssh(f"{UPLOAD} uninstall --force", 600)
    # No mirror, no lists, no proxy: what is needed is installed.
    node.ssh("cp /srv/own.list /etc/apt/sources.list && apt-get -qq update", 600)
    packages = "runc containernetworking-plugins docker.io iptables"
    node.ssh(f"DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install {packages} >/dev/null 2>&1", 900)
    node.ssh(f"rm -rf /var/lib/apt/lists/* {PROXY} && mv /srv/mirror /srv/gone && : >/etc/apt/sources.list")
    report = node.install()
    expect(report["changed"] > 0 and report["selftest"], f"nothing within reach: {report}")
    node.expect_healthy()
    node.expect_unchanged()
