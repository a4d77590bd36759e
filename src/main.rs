use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1).skip_while(|a| a == "ocid");
    match args.next().as_ref().and_then(|a| a.to_str()) {
        Some("monitor") => crio_setup::ocid::monitor::main(),
        Some("pause") => crio_setup::ocid::pause::main(args),
        _ => ExitCode::from(2),
    }
}
