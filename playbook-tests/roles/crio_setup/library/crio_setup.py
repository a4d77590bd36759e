#!/usr/bin/python
# Apache-2.0
"""Runs `crio-setup` and reports what it reports: changed exactly when it changed something."""

import json
import os

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: crio_setup
short_description: Makes a container node of a machine, or a machine of a node
description:
  - Runs C(crio-setup install) or C(crio-setup uninstall) with settings in its environment.
  - In check mode nothing is changed; what would be done is read from C(crio-setup plan).
options:
  program:
    description: Path of the program on the machine.
    type: path
    required: true
  state:
    description: Whether the machine is to be a node.
    choices: [present, absent]
    default: present
    type: str
  settings:
    description:
      - Settings by the long names of the program's options, with C(-) or C(_) in them.
      - Lists are joined by commas. What is null is left to the program.
    type: dict
    default: {}
  force:
    description: With I(state=absent), remove pods that run.
    type: bool
    default: false
  purge:
    description: With I(state=absent), remove files of ours that were changed since.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: A node without docker
  crio_setup:
    program: /usr/local/src/crio-setup
    settings:
      profile: kubernetes
"""

RETURN = r"""
report:
  description: What the program reported.
  type: dict
  returned: when it reported
"""

# The program's exit codes that come with a report.
DONE = 0
PENDING = 4


def environment(settings):
    """The settings as the program reads them from its environment."""
    found = {}
    for key, value in settings.items():
        name = "CRIO_SETUP_" + key.upper().replace("-", "_")
        if key == "selftest":
            name, value = "CRIO_SETUP_NO_SELFTEST", None if value is None else not value
        if value is None or value == []:
            continue
        if isinstance(value, (list, tuple)):
            value = ",".join(str(item) for item in value)
        elif isinstance(value, bool):
            value = "true" if value else "false"
        found[name] = str(value)
    return found


def call(module, arguments, codes=(DONE,)):
    """The program's report on an order; ends the module where there is none."""
    argv = [module.params["program"], *arguments, "--output", "json"]
    code, out, err = module.run_command(argv, environ_update=environment(module.params["settings"]))
    if code not in codes:
        module.fail_json(msg=(err or out).strip() or "it said nothing", rc=code, cmd=argv)
    try:
        return json.loads(out)
    except ValueError:
        module.fail_json(msg="what it printed is no report", stdout=out, stderr=err, rc=code, cmd=argv)


def difference(steps, state):
    """Steps in this state as a diff that Ansible prints as it is."""
    lines = ["+ %s: %s\n" % (step["component"], step["action"]) for step in steps if step["state"] == state]
    return [{"prepared": "".join(lines)}] if lines else []


def present(module):
    if module.check_mode:
        report = call(module, ["plan", "--detailed-exitcode"], (DONE, PENDING))
        pending = report["pending"] > 0 or report["unfinished"]
        return {"changed": pending, "report": report, "diff": difference(report["steps"], "pending")}
    report = call(module, ["install"])
    return {"changed": report["changed"] > 0, "report": report, "diff": difference(report["steps"], "changed")}


def absent(module):
    if module.check_mode:
        report = call(module, ["status"], (DONE, 1))
        there = report["installed"] or report["unfinished"]
        return {"changed": there, "report": report}
    flags = [flag for flag in ("force", "purge") if module.params[flag]]
    report = call(module, ["uninstall"] + ["--" + flag for flag in flags])
    return {"changed": report["changed"] > 0, "report": report}


def main():
    module = AnsibleModule(
        argument_spec={
            "program": {"type": "path", "required": True},
            "state": {"choices": ["present", "absent"], "default": "present"},
            "settings": {"type": "dict", "default": {}},
            "force": {"type": "bool", "default": False},
            "purge": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    wanted = module.params["state"] == "present"
    if not os.access(module.params["program"], os.X_OK):
        # In check mode the upload has not taken place; without the program nothing can be installed.
        if module.check_mode:
            module.exit_json(changed=wanted, msg="the program is not on the machine yet")
        if not wanted:
            module.exit_json(changed=False, msg="the program is not on the machine")
        module.fail_json(msg="there is no program at `%s`" % module.params["program"])
    module.exit_json(**(present(module) if wanted else absent(module)))


if __name__ == "__main__":
    main()
