//! The operator's command: its process and its terminal. What it does is in the library `proxyctl`.

use std::env;
use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::thread;

use clap::Parser as _;
use proxyctl::{Args, Environment, Terminal, run};

fn main() -> ExitCode {
    // Wrong usage ends here with 2, `--help` with 0.
    let args = Args::parse();
    let set = |name| env::var(name).ok().filter(|value| !value.trim().is_empty());
    let environment = Environment {
        url: set("CLAWDENTITY_PROXY_URL"),
        token: set("CLAWDENTITY_ADMIN_TOKEN"),
        feed_token: set("CLAWDENTITY_FEED_TOKEN"),
    };
    let (mut out, mut err, mut input) = (io::stdout(), io::stderr(), io::stdin());
    let mut terminal = Terminal {
        out: &mut out,
        err: &mut err,
        input: &mut input,
        progress: io::stderr().is_terminal(),
        wait: &thread::sleep,
    };
    ExitCode::from(run(&args, &environment, &mut terminal) as u8)
}
