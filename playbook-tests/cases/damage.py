"""Damage of several kinds, each seen by `status` and put right by `install`."""

from vm.node import UPLOAD, compare, expect

NEEDS, ORDER = "node", 4
DAMAGE = {
    "the binary is deleted": "rm /usr/local/bin/crio-setup",
    "a unit is removed": "rm /etc/systemd/system/ocid.service && systemctl daemon-reload",
    "the network's file is removed": "rm /etc/cni/net.d/10-mynet.conflist",
    "the daemon is stopped": "systemctl stop ocid",
    "the daemon is disabled": "systemctl disable -q ocid",
    "a program is deleted": "rm /opt/cni/bin/bridge",
    "forwarding is off": "sysctl -q -w net.ipv4.ip_forward=0",
}


def run(node):
    for what, script in DAMAGE.items():
        node.ssh(script)
        code = node.ssh(f"{UPLOAD} status >/dev/null; echo $?", 300)
        expect(code == "1", f"{what}: `status` ended with {code}")
        report = node.install("--no-selftest")
        changed = [step["id"] for step in report["steps"] if step["state"] == "changed"]
        expect(report["changed"] > 0, f"{what}: `install` changed nothing")
        node.expect_healthy()
        print(f"damage: {what}: status {code}, then {' '.join(changed)}", flush=True)
    edit_unit(node)
    cut_receipt(node)
    node.expect_unchanged()
    node.state = "node"


def edit_unit(node):
    """A person's edit is kept, and named until it is undone."""
    unit = "/etc/systemd/system/ocid.service"
    node.ssh(f"cp -a {unit} /root/unit && echo '# an edit' >>{unit} && systemctl daemon-reload")
    code = node.ssh(f"{UPLOAD} status >/dev/null; echo $?", 300)
    expect(code == "1", f"an edited unit: `status` ended with {code}")
    report = node.install("--no-selftest")
    kept = [step["id"] for step in report["steps"] if step["state"] == "kept"]
    expect(kept and node.ssh(f"tail -n 1 {unit}") == "# an edit", f"an edited unit: {report}")
    node.ssh(f"cp -a /root/unit {unit} && rm /root/unit && systemctl daemon-reload")
    # The daemon was started before this file came, so it is started anew.
    node.install("--no-selftest")
    node.expect_healthy()


def cut_receipt(node):
    """A receipt that is cut short is refused with its name and a way out, and nothing is touched. By that way, what is
    there is taken as it is."""
    folder = "/var/lib/crio-setup"
    receipt = f"{folder}/receipt.json"
    node.ssh(f"cp -a {receipt} /root/receipt && truncate -s 700 {receipt}")
    units, files = node.units(), node.files(times=True)
    for verb in ("install", "status", "uninstall --force"):
        said = node.ssh(f"{UPLOAD} {verb} 2>&1; echo code $?", 300)
        expect(receipt in said and f"mv {folder} /root/" in said, f"`{verb}` with a cut receipt: {said}")
        expect(said.endswith("code 2"), f"`{verb}` with a cut receipt: {said}")
    compare(files, node.files(times=True), "an install with a cut receipt")
    expect(node.units() == units, "an install with a cut receipt restarted units")
    node.ssh(f"mv {folder} /root/")
    report = node.install("--no-selftest")
    # What may come from now on is noted as ours, and nothing else.
    changed = [step["id"] for step in report["steps"] if step["state"] == "changed" and not step["id"].endswith(":byproducts")]
    expect(not changed and report["health"]["runtime"]["ready"], f"without a receipt, {changed} changed: {report}")
    expect(node.units() == units, "an install without a receipt restarted units")
    node.ssh(f"rm -r {folder} && mv /root/crio-setup /var/lib/ && cp -a /root/receipt {receipt} && rm /root/receipt")
