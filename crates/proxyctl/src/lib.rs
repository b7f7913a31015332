//! `proxyctl`, the operator's command.
//!
//! Everything is here except reading the arguments and ending the process (`main.rs`), so that tests can run it with
//! a server and two buffers. Results go to standard output and everything else to standard error. The token goes into
//! one header and nowhere else.
//!
//! | exit code | |
//! |---|---|
//! | 0 | everything is done, or stood already |
//! | 1 | the proxy refused some or all of it, or failed at it; each item is listed |
//! | 2 | the command line, a file or the environment is wrong; the proxy was not asked anything |
//! | 3 | the proxy could not be reached; of a batch, nothing after that was tried |

mod api;
mod args;
mod batch;
mod cost;
mod doctor;
mod show;
mod watch;

use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use self::api::{Api, Failure};
pub use self::args::{Args, Environment};
use self::args::{Command, DeadLetters, Feed, Import, Keys, Revocations, Revoke};
use clap::CommandFactory as _;
use clawdentity_guard::{Auth, Client, Secret};
use clawdentity_protocol::revocation::Item;
use serde_json::Value;

/// The largest file of subjects, and the largest token file.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;
/// `ADMIN_TOKEN` as the proxy takes it: with another length it cannot be that.
const TOKEN_CHARS: std::ops::RangeInclusive<usize> = 32..=1024;
/// Runs of one reconciliation; the longest list takes fewer.
const MAX_RUNS: u32 = 1000;

/// What a revoked session does not mean.
const SESSION_NOTE: &str = "proxyctl: this ended what is cached here of the session, and its socket. The registry is asked \
                            anew and may let the agent in again; to keep it out, revoke the agent.";

/// How a run ended: the exit code is its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All done.
    Done = 0,
    /// Refused or failed, at least in part.
    Failed = 1,
    /// Nothing was asked, because the call itself is wrong.
    Usage = 2,
    /// The proxy could not be reached.
    Unreachable = 3,
}

/// What a run has of its process.
pub struct Terminal<'a> {
    /// Results.
    pub out: &'a mut dyn Write,
    /// Everything else.
    pub err: &'a mut dyn Write,
    /// Standard input, for `--file -`.
    pub input: &'a mut dyn Read,
    /// A person watches standard error: show a progress bar there.
    pub progress: bool,
    /// Lets this time pass.
    pub wait: &'a dyn Fn(Duration),
}

/// Does what the arguments say.
pub fn run(args: &Args, environment: &Environment, terminal: &mut Terminal<'_>) -> Outcome {
    match act(args, environment, terminal) {
        Ok(outcome) => outcome,
        Err(failure) => {
            say(terminal.err, &format!("proxyctl: {failure}"));
            failure.outcome()
        }
    }
}

fn act(args: &Args, environment: &Environment, terminal: &mut Terminal<'_>) -> Result<Outcome, Failure> {
    // These describe the command itself and ask nobody anything.
    match &args.command {
        Command::Completions { shell } => {
            let mut command = Args::command();
            clap_complete::generate(*shell, &mut command, "proxyctl", &mut terminal.out);
            return Ok(Outcome::Done);
        }
        Command::Man => {
            let page = clap_mangen::Man::new(Args::command());
            let rendered = page.render(&mut terminal.out);
            rendered.map_err(|error| failed(format!("standard output: {error}")))?;
            return Ok(Outcome::Done);
        }
        Command::Cost {
            agents,
            messages,
            revocations,
            sidecars,
        } => {
            let load = cost::Load {
                agents: *agents,
                messages: *messages,
                revocations: *revocations,
                sidecars: *sidecars,
            };
            let lines = cost::estimate(&load, args.json);
            lines.iter().for_each(|line| say(terminal.out, line));
            return Ok(Outcome::Done);
        }
        _ => {}
    }
    if matches!(args.command, Command::Doctor) {
        return doctor::examine(args, environment, terminal);
    }
    if let (Command::Watch { since }, Some(feed_token)) = (&args.command, &environment.feed_token) {
        let client = client(args, environment, feed_token.trim())?;
        return watch::by_stream(*since, args.json, &client, terminal);
    }
    let token = token(args, environment)?;
    let api = Api::new(client(args, environment, &token)?, &token, terminal.wait);
    match &args.command {
        Command::Revoke { what } => revoke(what, args.json, &api, terminal),
        Command::Revocations { what } => match what {
            Revocations::List { since } => list(*since, args.json, &api, terminal),
            Revocations::Lift { seq, force } => {
                let lift = api.lift(*seq, *force)?;
                say(terminal.out, &shown(&lift, args.json));
                Ok(Outcome::Done)
            }
        },
        Command::Feed { what: Feed::NewEpoch } => {
            let said = api.new_epoch()?;
            let line = match args.json {
                true => said.to_string(),
                false => show::new_epoch(&said),
            };
            say(terminal.out, &line);
            Ok(Outcome::Done)
        }
        Command::Watch { since } => watch::by_list(*since, args.json, &api, terminal),
        Command::DeadLetters { what } => dead_letters(what, args.json, &api, terminal),
        // Done above.
        Command::Completions { .. } | Command::Man | Command::Cost { .. } | Command::Doctor => {
            Ok(Outcome::Done)
        }
        Command::Reconcile => reconcile(args.json, &api, terminal),
        Command::Keys { what: Keys::Refresh } => {
            let answer = api.refresh_keys()?;
            show_all(&answer, args.json, show::keys, terminal);
            Ok(Outcome::Done)
        }
        Command::Import { what: Import::Status } => {
            let answer = api.import()?;
            show_all(&answer, args.json, show::import, terminal);
            Ok(Outcome::Done)
        }
        Command::Status { agent } => {
            let status = api.status(agent.as_ref())?;
            show_all(&status, args.json, show::status, terminal);
            Ok(Outcome::Done)
        }
    }
}

fn show_all(answer: &Value, json: bool, shown: impl Fn(&Value) -> Vec<String>, terminal: &mut Terminal<'_>) {
    let lines = match json {
        true => vec![answer.to_string()],
        false => shown(answer),
    };
    lines.iter().for_each(|line| say(terminal.out, line));
}

fn token(args: &Args, environment: &Environment) -> Result<String, Failure> {
    let text = match (&args.token_file, &environment.token) {
        (Some(path), _) => args::read_file(path)?,
        (None, Some(token)) => token.clone(),
        (None, None) => {
            return Err(usage(
                "no admin token given: set CLAWDENTITY_ADMIN_TOKEN or use --token-file",
            ));
        }
    };
    let token = text.trim();
    if !TOKEN_CHARS.contains(&token.len()) {
        return Err(usage(
            "this is not an admin token: an admin token has 32 to 1024 characters",
        ));
    }
    Ok(token.to_owned())
}

fn client(args: &Args, environment: &Environment, token: &str) -> Result<Client, Failure> {
    let url = args.url.as_deref().or(environment.url.as_deref());
    let url = url.ok_or_else(|| usage("no proxy given: use --url or set CLAWDENTITY_PROXY_URL"))?;
    let secret = Secret::parse(token);
    let secret =
        secret.ok_or_else(|| usage("the admin token contains characters that a token cannot have"))?;
    Ok(Client::new(url, Auth::Bearer(secret), args.allow_http)?)
}

fn revoke(what: &Revoke, json: bool, api: &Api<'_>, terminal: &mut Terminal<'_>) -> Result<Outcome, Failure> {
    let orders = args::orders(what, terminal.input)?;
    let outcome = match orders.as_slice() {
        [] => return Err(usage("nothing to revoke: the list is empty")),
        [order] => {
            say_revoked(&api.revoke(order)?, json, terminal);
            Outcome::Done
        }
        many => batch::revoke(many, json, api, terminal),
    };
    if matches!(what, Revoke::Session { .. }) && !json {
        say(terminal.err, SESSION_NOTE);
    }
    Ok(outcome)
}

fn list(since: u64, json: bool, api: &Api<'_>, terminal: &mut Terminal<'_>) -> Result<Outcome, Failure> {
    let mut since = since;
    loop {
        let page = api.revocations(since)?;
        for item in &page.items {
            match writeln!(terminal.out, "{}", shown(item, json)) {
                Ok(()) => {}
                // The reader has seen enough (`| head`).
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(Outcome::Done),
                Err(error) => return Err(failed(format!("standard output: {error}"))),
            }
        }
        if !page.more {
            return Ok(Outcome::Done);
        }
        since = page.next;
    }
}

fn dead_letters(
    what: &DeadLetters,
    json: bool,
    api: &Api<'_>,
    terminal: &mut Terminal<'_>,
) -> Result<Outcome, Failure> {
    match what {
        DeadLetters::List => {
            let mut since = 0;
            loop {
                let page = api.dead_letters(since)?;
                for letter in &page.items {
                    let line = if json {
                        letter.to_string()
                    } else {
                        show::dead_letter(letter)
                    };
                    say(terminal.out, &line);
                }
                if !page.more {
                    return Ok(Outcome::Done);
                }
                since = page.next;
            }
        }
        DeadLetters::Show { id } => {
            let letter = api.dead_letter(*id)?;
            show_all(&letter, json, show::status, terminal);
            Ok(Outcome::Done)
        }
        DeadLetters::Retry { id } => {
            let retried = api.dead_letter_action(*id, "retry")?;
            if json {
                say(terminal.out, &retried.to_string());
            } else {
                say(terminal.out, &format!("{id}\t{}", show::retried(&retried)));
            }
            match retried.get("outcome").and_then(serde_json::Value::as_str) {
                Some("failed") => Ok(Outcome::Failed),
                _ => Ok(Outcome::Done),
            }
        }
        DeadLetters::Drop { id } => {
            let dropped = api.dead_letter_action(*id, "drop")?;
            let line = if json {
                dropped.to_string()
            } else {
                format!("{id}\tdropped")
            };
            say(terminal.out, &line);
            Ok(Outcome::Done)
        }
    }
}

/// Runs until the registry's whole list was gone through: a long one takes more than one run.
fn reconcile(json: bool, api: &Api<'_>, terminal: &mut Terminal<'_>) -> Result<Outcome, Failure> {
    for _ in 0..MAX_RUNS {
        let (report, said) = api.reconcile()?;
        let line = match json {
            true => said.to_string(),
            false => show::report(&report),
        };
        say(terminal.out, &line);
        if report.outcome != "partial" {
            return Ok(Outcome::Done);
        }
        say(
            terminal.err,
            "proxyctl: there is more to do than one run does: starting the next run",
        );
    }
    Err(failed(
        "the list does not end: what was reconciled so far stands, and reconcile continues from there"
            .to_owned(),
    ))
}

fn say_revoked((item, new): &(Item, bool), json: bool, terminal: &mut Terminal<'_>) {
    let stood = if *new || json { "" } else { "\tstood already" };
    say(terminal.out, &format!("{}{stood}", shown(item, json)));
}

fn shown(item: &Item, json: bool) -> String {
    if json { item.to_json() } else { show::item(item) }
}

fn failed(reason: String) -> Failure {
    Failure::Refused { status: None, reason }
}

fn usage(message: &'static str) -> Failure {
    Failure::Usage(message.to_owned())
}

/// Where nobody listens any more, there is nobody to tell.
fn say(to: &mut dyn Write, text: &str) {
    let _ = writeln!(to, "{text}");
}

#[cfg(test)]
mod tests;
