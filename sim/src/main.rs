//! `tilehive-sim`.

fn main() -> std::process::ExitCode {
    sim::command::main()
}
