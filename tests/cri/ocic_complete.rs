//! Completions in a real bash, against a real daemon.

use anyhow::{Result, ensure};

use crate::support::Machine;
use crate::support::node::{ocic, ocic_ok};
use crate::world::World;

/// What bash offers for a line whose end is where the cursor is, one candidate a line.
fn offered(machine: &Machine, line: &str) -> Result<Vec<String>> {
    // What bash itself sets for a completion function; words are split at its own breaks.
    let script = r#"
        source /srv/ocic.bash
        COMP_LINE=$1 COMP_POINT=${#1}
        COMPREPLY=()
        [[ $(complete -p ocic) == *_ocic* ]] || exit 1
        compopt() { echo ":default"; }
        _ocic
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let said = machine.run(&["bash", "-c", script, "bash", line])?;
    let said = said.lines().filter(|line| !line.is_empty());
    Ok(said.map(str::to_owned).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn bash_offers_verbs_options_and_what_there_is() -> Result<()> {
    let mut world = World::start().await?;
    let sandbox = world.pod_config("people");
    let pod = world.run_pod(&sandbox).await?;
    let config = world.container_config("sleeper", &["sleep", "600"]);
    let id = world.up(&pod, &sandbox, config).await?;
    let machine = &world.machine;
    let program = machine.product("ocic")?;
    let script = ocic_ok(machine, &["completion", "bash"])?;
    machine.write("/srv/ocic.bash", script, 0o644)?;

    let cases: [(&str, &[&str]); 12] = [
        ("insp", &["inspect", "inspecti", "inspectp"]),
        ("pod st", &["status", "stop"]),
        ("ps --sta", &["--state"]),
        ("ps --output ", &["json", "table"]),
        ("ps --output=j", &["json"]),
        ("stopp peo", &["people"]),
        ("exec -it slee", &["sleeper"]),
        (&format!("logs {}", &id[..5]), &[&id[..13]]),
        (&format!("ps --pod {}", &pod[..5]), &[&pod[..13]]),
        // What bash takes for a word's end, the colon, is not offered again.
        ("rmi 127.0.0.1:50", &["5000/library/busybox:1"]),
        ("rmi 127.0.0.1:5000/library/busybox:", &["1"]),
        ("exec sleeper -- ls ", &[":default"]),
    ];
    for (line, expected) in cases {
        let mut got = offered(machine, &format!("{program} {line}"))?;
        got.sort();
        ensure!(got == expected, "`{line}`: {got:?}");
    }
    let both = offered(machine, &format!("{program} inspectp "))?;
    ensure!(
        both.contains(&"people".to_owned()) && both.contains(&pod[..13].to_owned()),
        "{both:?}"
    );

    // With real keys: what the tab makes of the line runs.
    let keys = "PS1=; PATH=/srv/under-test:$PATH; source /srv/ocic.bash\nocic inspectp -o table peo\t\nexit\n";
    machine.write("/srv/keys", keys, 0o644)?;
    let typed = "script -qec 'bash --norc --noprofile -i' /dev/null </srv/keys";
    let seen = machine.run(&["sh", "-c", typed])?;
    ensure!(seen.contains(&pod), "{seen}");

    // Nobody answers: nothing is offered, and nothing said.
    world.end_daemon(nix::sys::signal::Signal::SIGTERM)?;
    let machine = &world.machine;
    let output = ocic(machine, &["__complete", "--", "stopp", ""])?;
    ensure!(
        output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(),
        "{output:?}"
    );
    ensure!(offered(machine, &format!("{program} stopp "))?.is_empty());
    world.start_daemon().await?;
    for file in ["/srv/ocic.bash", "/srv/keys"] {
        std::fs::remove_file(world.machine.path(file))?;
    }
    world.assert_clean(&["/tmp"]).await
}
