//! `proxyctl doctor`: looks at a deployment from outside, and says in a sentence for each thing how it is and what to do.
//!
//! Without the admin token it looks at what anybody can see, and says what it could not look at. It changes nothing. What it
//! reads is judged by the functions under `examine`, which ask nobody.
//!
//! The exit code is 0 where nothing is bad, 1 where something is, 3 where nobody answers. A note does not count as bad.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use serde_json::{Value, json};
use url::Url;

use super::api::{Api, Failure, plain};
use super::{Args, Environment, Outcome, Terminal, say, token, usage};
use clawdentity_guard::{Answer, Auth, Client, HttpError, MAX_SMALL_ANSWER_BYTES, Secret, now_ms};
use clawdentity_protocol::time::iso_ms;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Clocks that differ by less agree: the header has whole seconds, and the answer took a while.
const CLOCKS_AGREE_S: u64 = 5;
/// From here on a caller is warned, and past 300 s refused.
const CLOCK_IS_OFF_S: u64 = 200;
/// Two runs of the schedule are missing.
const LATE_MS: u64 = 45 * 60_000;
/// docs/design.md §1: a revocation is in effect in under a second.
const PROMISED_MS: u64 = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Well,
    /// Worth knowing, and not wrong.
    Note,
    Bad,
    /// It could not be looked at.
    Unknown,
}

impl State {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Well => "well",
            Self::Note => "note",
            Self::Bad => "bad",
            Self::Unknown => "unknown",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    check: &'static str,
    state: State,
    finding: String,
    to_do: String,
}

impl Finding {
    fn new(check: &'static str, state: State, finding: impl Into<String>, to_do: impl Into<String>) -> Self {
        Self {
            check,
            state,
            finding: plain(&finding.into()),
            to_do: plain(&to_do.into()),
        }
    }

    fn well(check: &'static str, finding: impl Into<String>) -> Self {
        Self::new(check, State::Well, finding, "")
    }

    fn show(&self, json: bool) -> String {
        if json {
            return json!({
                "check": self.check,
                "state": self.state.as_str(),
                "finding": self.finding,
                "toDo": (!self.to_do.is_empty()).then_some(&self.to_do),
            })
            .to_string();
        }
        let line = format!("{:8} {:15} {}", self.state.as_str(), self.check, self.finding);
        match self.to_do.as_str() {
            "" => line,
            to_do => format!("{line}\n{:24} To do: {to_do}", ""),
        }
    }
}

/// Looks at everything, and says what it found.
pub(super) fn examine(
    args: &Args,
    environment: &Environment,
    terminal: &mut Terminal<'_>,
) -> Result<Outcome, Failure> {
    let url = args.url.as_deref().or(environment.url.as_deref());
    let url = url.ok_or_else(|| usage("no proxy given: use --url or set CLAWDENTITY_PROXY_URL"))?;
    let client = Client::new(url, Auth::None, args.allow_http)?;
    let url = Url::parse(url.trim()).map_err(|_| usage("the URL of the proxy: not a URL"))?;
    let signs_in = args.token_file.is_some() || environment.token.is_some();
    let token = signs_in.then(|| token(args, environment)).transpose()?;

    let (mut findings, answer) = reach(&client, &url);
    if let Some(answer) = &answer {
        let health: Option<Value> = serde_json::from_slice(&answer.body).ok();
        let health = health.unwrap_or_default();
        findings.push(clock(answer.date_ms.or_else(|| time_of(&client)), now_ms()));
        let is_proxy = health.get("ready").is_some_and(Value::is_boolean);
        if is_proxy {
            findings.extend(of_health(&health));
        } else {
            findings.push(no_proxy(answer.status, &health));
        }
        match token.as_deref() {
            _ if !is_proxy => {}
            None => findings.push(Finding::new(
                "operator",
                State::Unknown,
                "Without the admin token nobody is told of the ledger, dead letters and the kill switch's measurements.",
                "Set CLAWDENTITY_ADMIN_TOKEN or use --token-file.",
            )),
            Some(token) => findings.extend(as_operator(args, url.as_str(), token, terminal)?),
        }
    }
    for finding in &findings {
        say(terminal.out, &finding.show(args.json));
    }
    let bad = findings.iter().filter(|each| each.state == State::Bad).count();
    if !args.json {
        say(
            terminal.out,
            &match bad {
                0 => "Nothing is bad.".to_owned(),
                1 => "One thing is bad.".to_owned(),
                more => format!("{more} things are bad."),
            },
        );
    }
    Ok(match (answer, bad) {
        (None, _) => Outcome::Unreachable,
        (Some(_), 0) => Outcome::Done,
        (Some(_), _) => Outcome::Failed,
    })
}

/// Name, connection and certificate; with the answer to `/health` where there is one.
fn reach(client: &Client, url: &Url) -> (Vec<Finding>, Option<Answer>) {
    let host = url.host_str().unwrap_or_default().to_owned();
    let port = url.port_or_known_default().unwrap_or(443);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let addresses: Vec<SocketAddr> = (bare, port)
        .to_socket_addrs()
        .map(Iterator::collect)
        .unwrap_or_default();
    let answer = client.get("/health", None, MAX_SMALL_ANSWER_BYTES);
    let shown: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
    let resolved = match (shown.is_empty(), &answer) {
        (false, _) => Finding::well("dns", format!("{host} resolves to {}.", shown.join(", "))),
        (true, Ok(_)) => Finding::new(
            "dns",
            State::Note,
            format!("{host} does not resolve on this machine, and was reached by its HTTP proxy."),
            "",
        ),
        (true, Err(_)) => Finding::new(
            "dns",
            State::Bad,
            format!("{host} does not resolve."),
            "Compare the URL with the routes in wrangler.toml, and look at the domain's DNS records.",
        ),
    };
    let failure = match answer {
        Ok(answer) => {
            let secured = match url.scheme() {
                "https" => Finding::well("tls", format!("The certificate of {host} is accepted.")),
                _ => Finding::new(
                    "tls",
                    State::Note,
                    "The URL is plain http: there is no certificate.",
                    "",
                ),
            };
            return (vec![resolved, secured], Some(answer));
        }
        Err(HttpError::TooLarge) => "the answer to /health is too large".to_owned(),
        Err(error) => error.to_string(),
    };
    let unreachable = match addresses.first() {
        None => return (vec![resolved], None),
        Some(address) if TcpStream::connect_timeout(address, CONNECT_TIMEOUT).is_err() => Finding::new(
            "connection",
            State::Bad,
            format!("Nothing takes connections on {address}."),
            "See that the Worker is deployed under this domain, and that this machine may connect to it.",
        ),
        Some(_) if url.scheme() == "https" => Finding::new(
            "tls",
            State::Bad,
            format!("{host} takes connections, and then: {failure}."),
            "Look at the domain's certificate, and at what stands between this machine and the proxy.",
        ),
        Some(_) => Finding::new(
            "connection",
            State::Bad,
            format!("{host} takes connections, and then: {failure}."),
            "See that this is a proxy's address.",
        ),
    };
    (vec![resolved, unreachable], None)
}

/// The proxy's own clock, where the answer has no `Date`.
fn time_of(client: &Client) -> Option<u64> {
    let answer = client.get("/v1/time", None, MAX_SMALL_ANSWER_BYTES).ok()?;
    let time: Value = serde_json::from_slice(&answer.body).ok()?;
    time.get("unixSeconds")?.as_u64()?.checked_mul(1000)
}

fn clock(theirs_ms: Option<u64>, ours_ms: u64) -> Finding {
    let Some(theirs_ms) = theirs_ms else {
        let finding = "The answer does not say what time it is there.";
        return Finding::new("clock", State::Unknown, finding, "");
    };
    let off_s = theirs_ms.abs_diff(ours_ms) / 1000;
    let way = if ours_ms < theirs_ms { "behind" } else { "ahead of" };
    let finding = format!("This machine's clock is {off_s} s {way} the proxy's.");
    match off_s {
        ..=CLOCKS_AGREE_S => Finding::well("clock", "This machine's clock and the proxy's agree."),
        _ if off_s <= CLOCK_IS_OFF_S => {
            Finding::new("clock", State::Note, finding, "Set this machine's clock by NTP.")
        }
        _ => Finding::new(
            "clock",
            State::Bad,
            finding,
            "Set this machine's clock by NTP. An agent whose clock is off by more than 300 s is refused.",
        ),
    }
}

fn no_proxy(status: u16, answer: &Value) -> Finding {
    let faults = answer
        .pointer("/error/details/fieldErrors")
        .and_then(Value::as_object);
    if let Some(faults) = faults {
        let names: Vec<&str> = faults.keys().map(String::as_str).collect();
        return Finding::new(
            "settings",
            State::Bad,
            format!(
                "Every request is refused, because of these settings: {}.",
                names.join(", ")
            ),
            "Correct them in wrangler.toml, or by npx wrangler secret put, and deploy.",
        );
    }
    Finding::new(
        "proxy",
        State::Bad,
        format!("/health is answered with {status}, and not as a proxy answers it."),
        "See that the URL is the proxy's own.",
    )
}

/// Where a problem of `/health` belongs, and what to do about it.
fn problem(what: &str) -> (&'static str, &'static str) {
    match what {
        "binding_missing" => (
            "bindings",
            "Compare the deployment with wrangler.toml, and deploy again.",
        ),
        "database_unreachable" => (
            "database",
            "Look at the status of D1; see that the database's id in wrangler.toml is right.",
        ),
        "migrations_missing" => ("migrations", "npm run deploy -- --env ENVIRONMENT applies them."),
        "trust_state_unreachable" | "relay_session_unreachable" => (
            "objects",
            "Look at the status of Durable Objects, and at the errors in the log.",
        ),
        "signing_keys_unavailable" => ("keys", "Ask the registry's operator; then proxyctl keys refresh."),
        "crl_unavailable" => (
            "crl",
            "Ask the registry's operator. CRL_STALE_BEHAVIOR = \"fail-open\" admits agents meanwhile.",
        ),
        _ => ("health", "See docs/operations.md of the proxy's version."),
    }
}

fn of_health(health: &Value) -> Vec<Finding> {
    let text = |pointer| health.pointer(pointer).and_then(Value::as_str).unwrap_or("?");
    let problems = health.pointer("/readiness/problems").and_then(Value::as_array);
    let mut findings = vec![if health.get("ready") == Some(&Value::Bool(true)) {
        let finding = format!(
            "Version {} in {} is ready.",
            text("/version"),
            text("/environment")
        );
        Finding::well("health", finding)
    } else {
        let finding = format!(
            "Version {} in {} is not ready.",
            text("/version"),
            text("/environment")
        );
        let to_do = "See the reasons below.";
        Finding::new("health", State::Bad, finding, to_do)
    }];
    let mut named = Vec::new();
    for said in problems.into_iter().flatten() {
        let field = |name| said.get(name).and_then(Value::as_str).unwrap_or("?");
        let (check, to_do) = problem(field("what"));
        let finding = format!("{} since {}: {}.", field("what"), field("since"), field("effect"));
        findings.push(Finding::new(check, State::Bad, finding, to_do));
        named.push(field("what"));
    }
    if named.contains(&"database_unreachable") {
        let finding = "D1 does not answer, so nobody knows whether all migrations are applied.";
        findings.push(Finding::new("migrations", State::Unknown, finding, ""));
    } else if !named.contains(&"migrations_missing") {
        findings.push(Finding::well("migrations", "All tables are there."));
    }
    findings
}

/// What only the operator is told.
fn as_operator(
    args: &Args,
    url: &str,
    token: &str,
    terminal: &Terminal<'_>,
) -> Result<Vec<Finding>, Failure> {
    let secret = Secret::parse(token);
    let secret =
        secret.ok_or_else(|| usage("the admin token contains characters that a token cannot have"))?;
    let client = Client::new(url, Auth::Bearer(secret), args.allow_http)?;
    let api = Api::new(client, token, terminal.wait);
    let mut findings = match api.status(None) {
        Ok(status) => of_status(&status, now_ms()),
        Err(failure) => {
            let to_do = "Without it, what only the operator is told cannot be looked at.";
            return Ok(vec![Finding::new(
                "operator",
                State::Bad,
                failure.to_string(),
                to_do,
            )]);
        }
    };
    match api.health_detail() {
        Ok(health) => findings.extend(of_canary(&health, now_ms())),
        Err(failure) => findings.push(Finding::new(
            "kill switch",
            State::Bad,
            failure.to_string(),
            "See that D1 answers.",
        )),
    }
    Ok(findings)
}

fn of_status(status: &Value, now_ms: u64) -> Vec<Finding> {
    vec![
        keys(status.get("signingKeys"), now_ms),
        crl(status.get("isolate")),
        reconciliation(status.pointer("/reconciliation/finishedAtMs"), now_ms),
        events(status.get("lastEventAtMs"), now_ms),
        dead_letters(status.get("deadLetters")),
        circuits(status.get("isolate")),
    ]
}

/// A field that this version of the proxy does not have.
fn untold(check: &'static str) -> Finding {
    Finding::new(
        check,
        State::Unknown,
        "The proxy does not say; it is of an older version.",
        "",
    )
}

fn age(then_ms: u64, now_ms: u64) -> String {
    match now_ms.saturating_sub(then_ms) / 1000 {
        seconds @ ..120 => format!("{seconds} s ago"),
        seconds @ 120..7200 => format!("{} min ago", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h ago", seconds / 3600),
        seconds => format!("{} days ago", seconds / 86_400),
    }
}

fn keys(kept: Option<&Value>, now_ms: u64) -> Finding {
    let Some(kept) = kept else { return untold("keys") };
    let field = |name| kept.get(name).and_then(Value::as_u64);
    let (Some(active), Some(at_ms)) = (field("active"), field("fetchedAtMs")) else {
        return Finding::new(
            "keys",
            State::Bad,
            "No signing keys of the registry are kept in D1: in an outage of the registry, a fresh isolate has none.",
            "proxyctl keys refresh; if that fails, ask the registry's operator.",
        );
    };
    let finding = format!(
        "{active} signing keys are active, asked for {}.",
        age(at_ms, now_ms)
    );
    let late = now_ms.saturating_sub(at_ms) > LATE_MS;
    match (active, late) {
        (0, _) => Finding::new(
            "keys",
            State::Bad,
            finding,
            "Ask the registry's operator: every request is refused.",
        ),
        (_, true) => Finding::new(
            "keys",
            State::Bad,
            finding,
            "They are refreshed every 15 minutes: see that the schedule runs, and that the registry answers; proxyctl keys refresh.",
        ),
        (_, false) => Finding::well("keys", finding),
    }
}

fn crl(isolate: Option<&Value>) -> Finding {
    let Some(isolate) = isolate else {
        return untold("crl");
    };
    let age_ms = isolate.get("crlAgeMs").and_then(Value::as_u64);
    let held = match age_ms {
        Some(age_ms) => format!("The registry's revocation list is {} s old", age_ms / 1000),
        None => "This isolate has not needed the registry's revocation list yet".to_owned(),
    };
    match isolate.get("crl").and_then(Value::as_str) {
        Some("fresh" | "never") => Finding::well("crl", format!("{held}.")),
        Some("stale") => Finding::new(
            "crl",
            State::Note,
            format!("{held}, and is being asked for again."),
            "Nothing, unless it lasts: then ask the registry's operator.",
        ),
        Some("dead") => Finding::new(
            "crl",
            State::Bad,
            format!("{held}, too old to count."),
            "Ask the registry's operator. Until it answers, revocations come by the queue and by proxyctl alone.",
        ),
        _ => untold("crl"),
    }
}

fn reconciliation(finished_at_ms: Option<&Value>, now_ms: u64) -> Finding {
    let Some(at_ms) = finished_at_ms.and_then(Value::as_u64).filter(|at_ms| *at_ms > 0) else {
        return Finding::new(
            "reconciliation",
            State::Bad,
            "The registry's revocation list was never gone through.",
            "proxyctl reconcile; see that the Worker's schedule runs.",
        );
    };
    let finding = format!(
        "The registry's revocation list was gone through {}.",
        age(at_ms, now_ms)
    );
    if now_ms.saturating_sub(at_ms) > LATE_MS {
        let to_do = "proxyctl reconcile; see that the schedule runs, and that the registry answers.";
        return Finding::new("reconciliation", State::Bad, finding, to_do);
    }
    Finding::well("reconciliation", finding)
}

/// Whether the registry publishes at all cannot be seen from here, so silence is a note.
fn events(at_ms: Option<&Value>, now_ms: u64) -> Finding {
    let Some(at_ms) = at_ms else {
        return untold("events");
    };
    match at_ms.as_u64() {
        Some(at_ms) => Finding::well(
            "events",
            format!(
                "An event of the registry was last applied {}.",
                age(at_ms, now_ms)
            ),
        ),
        None => Finding::new(
            "events",
            State::Note,
            "No event of the registry was applied in the last 90 days.",
            "If an agent was revoked at the registry since, ask its operator whether it publishes to this proxy's queue.",
        ),
    }
}

fn dead_letters(count: Option<&Value>) -> Finding {
    let field = |name| count.and_then(|count| count.get(name)).and_then(Value::as_u64);
    let (Some(total), Some(revocations)) = (field("total"), field("revocations")) else {
        return untold("dead letters");
    };
    let to_do = "proxyctl dead-letters list, and show each; then retry it or drop it.";
    match (revocations, total) {
        (0, 0) => Finding::well("dead letters", "There are none."),
        (0, total) => Finding::new(
            "dead letters",
            State::Bad,
            format!("Messages that could not be applied: {total}."),
            to_do,
        ),
        (revocations, _) => Finding::new(
            "dead letters",
            State::Bad,
            format!("Revocations that were not applied: {revocations}."),
            format!("Revoke by hand who is still admitted. {to_do}"),
        ),
    }
}

fn circuits(isolate: Option<&Value>) -> Finding {
    let Some(open) = isolate
        .and_then(|isolate| isolate.get("circuits"))
        .and_then(Value::as_array)
    else {
        return untold("circuits");
    };
    let named = open.iter().map(|circuit| {
        let field = |name| circuit.get(name).and_then(Value::as_str);
        let lane = field("lane").map(|lane| format!(" ({lane})")).unwrap_or_default();
        format!(
            "{}{lane} is {}",
            field("dependency").unwrap_or("?"),
            field("phase").unwrap_or("?")
        )
    });
    let named: Vec<String> = named.collect();
    if named.is_empty() {
        return Finding::well(
            "circuits",
            "All are closed in the isolate that answered; others may see it otherwise.",
        );
    }
    Finding::new(
        "circuits",
        State::Note,
        format!("In the isolate that answered: {}.", named.join(", ")),
        "The registry fails there, and known agents go on meanwhile. If it lasts, ask the registry's operator.",
    )
}

/// Each way in, by the kill switch's last measurement of itself.
fn of_canary(health: &Value, now_ms: u64) -> Vec<Finding> {
    const CHECK: &str = "kill switch";
    let Some(canary) = health.pointer("/detail/canary") else {
        return vec![untold(CHECK)];
    };
    let interval_s = canary.get("intervalSeconds").and_then(Value::as_u64).unwrap_or(0);
    if interval_s == 0 {
        let finding = "It does not measure itself, because CANARY_INTERVAL_SECONDS is 0.";
        return vec![Finding::new(CHECK, State::Note, finding, "Set it to 300.")];
    }
    let look = "Look for proxy.canary.alarm in the log, and for the errors before it. Revoke by the other way meanwhile.";
    let of_way = |(name, shown): (&str, &str)| {
        let way = canary.get(name).cloned().unwrap_or_default();
        let number = |pointer| way.pointer(pointer).and_then(Value::as_u64);
        let Some(at_ms) = number("/lastAtMs") else {
            let finding = format!("{shown} was not measured in the last day.");
            let to_do =
                "In the first minutes of a deployment, nothing; else see that the Worker's schedule runs.";
            return Finding::new(CHECK, State::Bad, finding, to_do);
        };
        if now_ms.saturating_sub(at_ms) > interval_s.saturating_mul(3000) {
            let finding = format!(
                "{shown} was last measured {} ({}).",
                age(at_ms, now_ms),
                iso_ms(at_ms)
            );
            return Finding::new(CHECK, State::Bad, finding, "See that the Worker's schedule runs.");
        }
        if way.get("lastWasSilent") == Some(&Value::Bool(true)) {
            return Finding::new(CHECK, State::Bad, format!("{shown} was not seen to work."), look);
        }
        let took_ms = number("/lastMs").unwrap_or(0);
        let p99_ms = number("/overlay/p99Ms").max(number("/socket/p99Ms")).unwrap_or(0);
        let finding =
            format!("{shown} took {took_ms} ms; 99 of 100 in the last day took at most {p99_ms} ms.");
        match took_ms {
            ..=PROMISED_MS => Finding::well(CHECK, finding),
            _ => Finding::new(CHECK, State::Bad, finding, look),
        }
    };
    [
        ("event", "A revocation by the queue"),
        ("operator", "A revocation by an operator"),
    ]
    .map(of_way)
    .into()
}
