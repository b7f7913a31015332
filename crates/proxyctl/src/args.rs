//! The command line as types: identifiers are parsed before the proxy is asked anything.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};

use super::MAX_FILE_BYTES;
use super::api::Failure;
use clawdentity_protocol::did::AgentDid;
use clawdentity_protocol::ids::Ulid;
use clawdentity_protocol::revocation::{MAX_SEQ, Order, Subject};
use clawdentity_protocol::time::parse_iso;

/// Wrong lines of a file that are listed.
const MAX_SHOWN_FAULTS: usize = 20;

/// Revokes agents, tokens and sessions at a Clawdentity proxy, lists and lifts revocations, and shows the proxy's state.
///
/// The admin token is taken from CLAWDENTITY_ADMIN_TOKEN or from --token-file, never from the command line.
/// Exit codes: 0 done; 1 something was refused or failed, and is listed; 2 wrong usage; 3 the proxy could not be reached.
#[derive(Debug, Parser)]
#[command(name = "proxyctl", version)]
pub struct Args {
    /// The proxy's URL [or CLAWDENTITY_PROXY_URL]
    #[arg(long, global = true)]
    pub(super) url: Option<String>,
    /// A file that holds the admin token and nothing else
    #[arg(long, global = true, value_name = "PATH")]
    pub(super) token_file: Option<PathBuf>,
    /// Allows the token to be sent over plain http:// to another machine
    #[arg(long, global = true)]
    pub(super) allow_http: bool,
    /// Prints the proxy's answers, one JSON object on each line
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// What comes from the environment.
#[derive(Clone, Default)]
pub struct Environment {
    /// `CLAWDENTITY_PROXY_URL`.
    pub url: Option<String>,
    /// `CLAWDENTITY_ADMIN_TOKEN`.
    pub token: Option<String>,
    /// `CLAWDENTITY_FEED_TOKEN`.
    pub feed_token: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Revokes something, at once and everywhere
    Revoke {
        #[command(subcommand)]
        what: Revoke,
    },
    /// Lists or lifts revocations
    Revocations {
        #[command(subcommand)]
        what: Revocations,
    },
    /// Makes the proxy go through the registry's CRL now, to its end
    Reconcile,
    /// The registry's signing keys
    Keys {
        #[command(subcommand)]
        what: Keys,
    },
    /// What a TypeScript proxy kept and this one takes over
    Import {
        #[command(subcommand)]
        what: Import,
    },
    /// Shows the proxy's state
    Status {
        /// Also shows this agent: its queue, its oldest message, its socket, its clock
        #[arg(long, value_parser = agent, value_name = "DID")]
        agent: Option<AgentDid>,
    },
    /// Looks at the deployment from outside, and says how each thing is and what to do
    ///
    /// Without the admin token it looks at what anybody can see. It changes nothing. Exit codes: 0 nothing is bad;
    /// 1 something is; 3 nobody answers.
    Doctor,
    /// Shows each revocation as it comes, until it is stopped
    ///
    /// It follows the revocation feed's stream with CLAWDENTITY_FEED_TOKEN. Where that is not set, it reads the ledger
    /// every 2 s with the admin token.
    Watch {
        /// Begins after this number, not with the next revocation
        #[arg(long, value_parser = clap::value_parser!(u64).range(0..=MAX_SEQ))]
        since: Option<u64>,
    },
    /// The revocation feed
    Feed {
        #[command(subcommand)]
        what: Feed,
    },
    /// What came through a queue and could not be applied
    DeadLetters {
        #[command(subcommand)]
        what: DeadLetters,
    },
    /// Reckons what a month costs at the platform's published prices
    Cost {
        /// Agents that are connected all month
        #[arg(long)]
        agents: u64,
        /// Messages in the month
        #[arg(long)]
        messages: u64,
        /// Revocations in the month
        #[arg(long, default_value_t = 0)]
        revocations: u64,
        /// Sidecars that listen to the stream
        #[arg(long, default_value_t = 0)]
        sidecars: u64,
    },
    /// Prints completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Prints the man page
    Man,
}

#[derive(Debug, Subcommand)]
pub(super) enum Feed {
    /// Has every reader of the feed start over, after the database was restored to an earlier point
    NewEpoch,
}

#[derive(Debug, Subcommand)]
pub(super) enum DeadLetters {
    /// Lists them: number, time, what, about whom, queue, reason
    List,
    /// Shows one, with its body
    Show {
        /// Its number
        #[arg(value_parser = clap::value_parser!(u64).range(1..=MAX_SEQ))]
        id: u64,
    },
    /// Has the proxy work on it once more; it is gone if that succeeds
    Retry {
        /// Its number
        #[arg(value_parser = clap::value_parser!(u64).range(1..=MAX_SEQ))]
        id: u64,
    },
    /// Removes it without applying it
    Drop {
        /// Its number
        #[arg(value_parser = clap::value_parser!(u64).range(1..=MAX_SEQ))]
        id: u64,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Keys {
    /// Fetches them now, and lists those that are active; every isolate follows within 30 seconds
    Refresh,
}

#[derive(Debug, Subcommand)]
pub(super) enum Import {
    /// Shows how far it is
    Status,
}

#[derive(Debug, Subcommand)]
pub(super) enum Revoke {
    /// An agent, with every token it has or will have
    Agent {
        /// The agent's DID
        #[arg(value_parser = agent, required_unless_present = "file", conflicts_with = "file")]
        did: Option<AgentDid>,
        #[command(flatten)]
        more: More,
    },
    /// One token, by its jti
    Token {
        /// The token's id, a ULID
        #[arg(value_parser = token, required_unless_present = "file", conflicts_with = "file")]
        jti: Option<Ulid>,
        /// The agent that it belongs to, if known
        #[arg(long, value_parser = agent, value_name = "DID")]
        agent: Option<AgentDid>,
        /// When the token expires (RFC 3339); without it, 90 days from now
        #[arg(long, value_parser = time, value_name = "TIME")]
        expires_at: Option<u64>,
        #[command(flatten)]
        more: More,
    },
    /// An agent's session at this proxy: what is cached of it here, and its open socket
    ///
    /// It does not keep the agent out: the registry is asked anew, and may let it in again. To keep it out, revoke the agent.
    Session {
        /// The agent's DID
        #[arg(value_parser = agent, required_unless_present = "file", conflicts_with = "file")]
        did: Option<AgentDid>,
        #[command(flatten)]
        more: More,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct More {
    /// The reason, for those who read the ledger
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// A file with one on each line; '#' starts a comment, - is standard input
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Revocations {
    /// Lists revocations: number, kind, subject, time, source, reason
    List {
        /// Lists only those after this number
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=MAX_SEQ))]
        since: u64,
    },
    /// Lifts a revocation
    Lift {
        /// The number of the revocation
        #[arg(value_parser = clap::value_parser!(u64).range(1..=MAX_SEQ))]
        seq: u64,
        /// Lifts it even if it came from the registry
        #[arg(long)]
        force: bool,
    },
}

fn agent(text: &str) -> Result<AgentDid, String> {
    AgentDid::parse(text).map_err(|error| error.to_string())
}

fn token(text: &str) -> Result<Ulid, String> {
    Ulid::parse(text).map_err(|error| error.to_string())
}

fn time(text: &str) -> Result<u64, String> {
    parse_iso(text).map_err(|error| error.to_string())
}

/// What is to be revoked. A list is read whole and must be right in every line before its first is revoked; what is in
/// it twice is revoked once.
pub(super) fn orders(what: &Revoke, input: &mut dyn Read) -> Result<Vec<Order>, Failure> {
    let more = match what {
        Revoke::Agent { more, .. } | Revoke::Token { more, .. } | Revoke::Session { more, .. } => more,
    };
    let mut orders: Vec<Order> = Vec::new();
    let Some(path) = &more.file else {
        orders.extend(own_subject(what).map(|subject| order(subject, more)));
        return Ok(orders);
    };
    let text = if path.as_os_str() == "-" {
        read(input, path)?
    } else {
        read_file(path)?
    };
    let mut faults = Vec::new();
    let mut more_faults = 0_usize;
    let mut seen = std::collections::HashSet::new();
    for (number, line) in (1..).zip(text.lines()) {
        let word = line.split('#').next().unwrap_or_default().trim();
        if word.is_empty() || !seen.insert(word) {
            continue;
        }
        match subject(what, word) {
            Ok(subject) => orders.push(order(subject, more)),
            Err(fault) if faults.len() < MAX_SHOWN_FAULTS => faults.push(format!("line {number}: {fault}")),
            Err(_) => more_faults += 1,
        }
    }
    if faults.is_empty() {
        return Ok(orders);
    }
    if more_faults > 0 {
        faults.push(format!("and {more_faults} more"));
    }
    Err(Failure::Usage(format!(
        "nothing was revoked: {}\n  {}",
        path.display(),
        faults.join("\n  ")
    )))
}

fn order(subject: Subject, more: &More) -> Order {
    Order {
        subject,
        reason: more.reason.clone(),
    }
}

fn own_subject(what: &Revoke) -> Option<Subject> {
    match what {
        Revoke::Agent { did, .. } => did.clone().map(|agent| Subject::Agent { agent }),
        Revoke::Session { did, .. } => did.clone().map(|agent| Subject::Session { agent }),
        Revoke::Token {
            jti,
            agent,
            expires_at,
            ..
        } => jti.map(|jti| Subject::Token {
            jti,
            agent: agent.clone(),
            expires_at_ms: *expires_at,
        }),
    }
}

fn subject(what: &Revoke, word: &str) -> Result<Subject, String> {
    match what {
        Revoke::Agent { .. } => agent(word).map(|agent| Subject::Agent { agent }),
        Revoke::Session { .. } => agent(word).map(|agent| Subject::Session { agent }),
        Revoke::Token {
            agent, expires_at, ..
        } => token(word).map(|jti| Subject::Token {
            jti,
            agent: agent.clone(),
            expires_at_ms: *expires_at,
        }),
    }
}

/// A file's text.
pub(super) fn read_file(path: &Path) -> Result<String, Failure> {
    let mut file =
        File::open(path).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
    read(&mut file, path)
}

fn read(from: &mut dyn Read, path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let length = from
        .take(MAX_FILE_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
    if length as u64 > MAX_FILE_BYTES {
        return Err(Failure::Usage(format!("{}: too large", path.display())));
    }
    Ok(text)
}
