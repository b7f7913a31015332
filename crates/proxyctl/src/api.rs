//! The operator's routes (docs/wire.md §10.3), one function each.
//!
//! The text of a proxy's error is shown to the operator, so it is first shortened and stripped of control characters:
//! a terminal obeys some of them, and the answer may come from somebody who is not the proxy. For the same reason an
//! answer that repeats the admin token is not shown at all.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::Outcome;
use clawdentity_guard::{Answer, Client, HttpError, MAX_SMALL_ANSWER_BYTES};
use clawdentity_protocol::did::AgentDid;
use clawdentity_protocol::revocation::{Item, MAX_PAGE_BYTES, MAX_PAGE_ITEMS, Order, Page};

const REVOCATIONS: &str = "/admin/v1/revocations";
const DEAD_LETTERS: &str = "/admin/v1/dead-letters";
/// A revocation may wait for an object and for D1, each with retries.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// A reconciliation first fetches a list of up to 32 MiB.
const RECONCILE_TIMEOUT: Duration = Duration::from_secs(120);
/// How often a call that was told to come later comes again.
const MAX_RETRIES: u32 = 3;
/// The longest that it waits for that.
const MAX_RETRY_AFTER_MS: u64 = 30_000;
/// The longest text of somebody else's in a message.
const MAX_SHOWN_CHARS: usize = 300;

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The call itself is wrong.
    #[error("{0}")]
    Usage(String),
    /// Nobody answered, or the answer broke off.
    #[error("the proxy could not be reached: {0}")]
    Unreachable(String),
    /// The proxy refused it, or failed.
    #[error("{reason}")]
    Refused {
        /// Of its answer; `None` where that is not a proxy's.
        status: Option<u16>,
        /// For the operator.
        reason: String,
    },
}

impl Failure {
    pub(super) const fn outcome(&self) -> Outcome {
        match self {
            Self::Usage(_) => Outcome::Usage,
            Self::Unreachable(_) => Outcome::Unreachable,
            Self::Refused { .. } => Outcome::Failed,
        }
    }

    /// Whether the next of many would only hear the same. With a wrong token it would also use up the sign-ins that
    /// this address may get wrong.
    pub(super) const fn is_for_all(&self) -> bool {
        match self {
            Self::Usage(_) | Self::Unreachable(_) => true,
            Self::Refused { status, .. } => matches!(status, Some(300..=399 | 401 | 403..=405 | 429)),
        }
    }
}

impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::Address(reason) => Self::Usage(format!("the URL of the proxy: {reason}")),
            HttpError::Unreachable(reason) => Self::Unreachable(plain(&reason)),
            HttpError::TooLarge => odd("it is too large"),
        }
    }
}

/// What a run of the reconciliation did.
#[derive(Deserialize)]
pub(super) struct Report {
    pub(super) outcome: String,
    pub(super) listed: u64,
    pub(super) added: u64,
    pub(super) told: u64,
}

/// A page of dead letters; their fields are the proxy's to choose.
#[derive(Deserialize)]
pub(super) struct DeadLetterPage {
    pub(super) items: Vec<Value>,
    pub(super) next: u64,
    pub(super) more: bool,
}

pub(super) struct Api<'a> {
    client: Client,
    token: &'a str,
    wait: &'a dyn Fn(Duration),
}

impl<'a> Api<'a> {
    /// `token`: what the client signs in with.
    pub(super) fn new(client: Client, token: &'a str, wait: &'a dyn Fn(Duration)) -> Self {
        Self {
            client: client.with_call_timeout(CALL_TIMEOUT),
            token,
            wait,
        }
    }

    /// Revokes; the item, and whether it is new.
    pub(super) fn revoke(&self, order: &Order) -> Result<(Item, bool), Failure> {
        let answer = self.post(REVOCATIONS, &order.to_json())?;
        Ok((item(&answer)?, answer.status == 201))
    }

    /// A page of the ledger.
    pub(super) fn revocations(&self, since: u64) -> Result<Page, Failure> {
        let path = format!("{REVOCATIONS}?since={since}&limit={MAX_PAGE_ITEMS}");
        let answer = self.get(&path, MAX_PAGE_BYTES)?;
        let page = Page::parse(&answer.body).map_err(|error| odd(error.reason()))?;
        if page.more && page.next <= since && !page.reset {
            return Err(odd("its pages do not advance"));
        }
        Ok(page)
    }

    /// The ledger's highest number.
    pub(super) fn latest(&self) -> Result<u64, Failure> {
        let answer = self.get(&format!("{REVOCATIONS}?limit=1"), MAX_PAGE_BYTES)?;
        let page = Page::parse(&answer.body).map_err(|error| odd(error.reason()))?;
        Ok(page.latest)
    }

    /// Takes a revocation back.
    pub(super) fn lift(&self, seq: u64, force: bool) -> Result<Item, Failure> {
        let path = format!("{REVOCATIONS}/{seq}/lift");
        let body = if force { r#"{"force":true}"# } else { "{}" };
        let answer = self.post(&path, body).map_err(|failure| match failure {
            Failure::Refused {
                status: Some(409),
                reason,
            } if !force => Failure::Refused {
                status: Some(409),
                reason: format!("{reason} (here: --force)"),
            },
            other => other,
        })?;
        item(&answer)
    }

    /// Reconciles, as far as one run goes; what the proxy says of it.
    pub(super) fn reconcile(&self) -> Result<(Report, Value), Failure> {
        let client = self.client.clone().with_call_timeout(RECONCILE_TIMEOUT);
        let said = value(&self.patiently(|| client.post("/admin/v1/reconcile", "{}"))?)?;
        let report =
            Report::deserialize(&said).map_err(|_| odd("it is not the report of a reconciliation"))?;
        Ok((report, said))
    }

    /// Has the registry's signing keys fetched.
    pub(super) fn refresh_keys(&self) -> Result<Value, Failure> {
        value(&self.post("/admin/v1/keys/refresh", "{}")?)
    }

    /// How far the import of what an earlier proxy kept is.
    pub(super) fn import(&self) -> Result<Value, Failure> {
        value(&self.get("/admin/v1/import", MAX_SMALL_ANSWER_BYTES)?)
    }

    /// How the proxy is, and this agent.
    pub(super) fn status(&self, agent: Option<&AgentDid>) -> Result<Value, Failure> {
        // A DID needs no escaping in a query (RFC 3986 §3.4).
        let query = agent
            .map(|agent| format!("?agentDid={agent}"))
            .unwrap_or_default();
        value(&self.get(&format!("/admin/v1/status{query}"), MAX_SMALL_ANSWER_BYTES)?)
    }

    /// The proxy's health, with what only the operator is told.
    pub(super) fn health_detail(&self) -> Result<Value, Failure> {
        value(&self.get("/health?detail", MAX_SMALL_ANSWER_BYTES)?)
    }

    /// Begins a new epoch of the feed; what the proxy says of it.
    pub(super) fn new_epoch(&self) -> Result<Value, Failure> {
        value(&self.post("/admin/v1/feed/epoch", "{}")?)
    }

    /// A page of the dead letters.
    pub(super) fn dead_letters(&self, since: u64) -> Result<DeadLetterPage, Failure> {
        let path = format!("{DEAD_LETTERS}?since={since}&limit={MAX_PAGE_ITEMS}");
        let answer = self.get(&path, MAX_PAGE_BYTES)?;
        let page: DeadLetterPage =
            serde_json::from_slice(&answer.body).map_err(|_| odd("it is not a list of dead letters"))?;
        if page.more && page.next <= since {
            return Err(odd("its pages do not advance"));
        }
        Ok(page)
    }

    /// One dead letter, with its body.
    pub(super) fn dead_letter(&self, id: u64) -> Result<Value, Failure> {
        value(&self.get(&format!("{DEAD_LETTERS}/{id}"), MAX_PAGE_BYTES)?)
    }

    /// `retry` or `drop`; what the proxy says of it.
    pub(super) fn dead_letter_action(&self, id: u64, action: &str) -> Result<Value, Failure> {
        value(&self.post(&format!("{DEAD_LETTERS}/{id}/{action}"), "{}")?)
    }

    fn get(&self, path: &str, max_bytes: usize) -> Result<Answer, Failure> {
        self.patiently(|| self.client.get(path, None, max_bytes))
    }

    fn post(&self, path: &str, json: &str) -> Result<Answer, Failure> {
        self.patiently(|| self.client.post(path, json))
    }

    /// Calls again where the proxy says when (429, 503): every admin route is idempotent.
    fn patiently(&self, call: impl Fn() -> Result<Answer, HttpError>) -> Result<Answer, Failure> {
        let mut retries = 0;
        loop {
            let answer = call()?;
            if holds(&answer.body, self.token) {
                return Err(odd("it repeats the admin token"));
            }
            match answer.retry_after_ms {
                Some(wait_ms)
                    if matches!(answer.status, 429 | 503)
                        && wait_ms <= MAX_RETRY_AFTER_MS
                        && retries < MAX_RETRIES =>
                {
                    retries += 1;
                    (self.wait)(Duration::from_millis(wait_ms));
                }
                _ if (200..=299).contains(&answer.status) => return Ok(answer),
                _ => return Err(refused(&answer)),
            }
        }
    }
}

fn holds(body: &[u8], token: &str) -> bool {
    body.windows(token.len().max(1))
        .any(|part| part == token.as_bytes())
}

pub(super) fn refused(answer: &Answer) -> Failure {
    #[derive(Deserialize)]
    struct Envelope {
        error: Body,
    }
    #[derive(Deserialize)]
    struct Body {
        code: String,
        message: String,
        details: Option<Details>,
    }
    #[derive(Deserialize)]
    struct Details {
        #[serde(rename = "ownerAgentDid")]
        owner: Option<String>,
    }

    let status = answer.status;
    let told = serde_json::from_slice::<Envelope>(&answer.body).map(|envelope| envelope.error);
    let (code, message) = match &told {
        Ok(error) => (error.code.as_str(), error.message.as_str()),
        Err(_) => ("", "without a reason"),
    };
    let hint = match status {
        300..=399 => "; is this URL the proxy's own?".to_owned(),
        401 | 403 => "; is this the token of that proxy?".to_owned(),
        404 if !matches!(code, "PROXY_REVOCATION_NOT_FOUND" | "PROXY_DEAD_LETTER_NOT_FOUND") => {
            "; is this a proxy, and is ADMIN_TOKEN set there?".to_owned()
        }
        409 if code == "PROXY_REVOCATION_AGENT_MISMATCH" => match &told {
            Ok(Body {
                details: Some(Details { owner: Some(owner) }),
                ..
            }) => format!(
                "; it belongs to {}: name that agent, or leave --agent out, if it is the token that you mean",
                plain(owner)
            ),
            _ => "; leave --agent out, if it is the token that you mean".to_owned(),
        },
        429 | 503 => match answer.retry_after_ms {
            Some(ms) => format!("; try again in {} s", ms / 1000),
            None => "; try again later".to_owned(),
        },
        _ => String::new(),
    };
    let shown = [status.to_string(), plain(code), plain(message)];
    let shown: Vec<&str> = shown
        .iter()
        .map(String::as_str)
        .filter(|text| !text.is_empty())
        .collect();
    Failure::Refused {
        status: Some(status),
        reason: format!("{}{hint}", shown.join(" ")),
    }
}

fn item(answer: &Answer) -> Result<Item, Failure> {
    Item::parse(&answer.body).map_err(|error| odd(error.reason()))
}

fn value(answer: &Answer) -> Result<Value, Failure> {
    serde_json::from_slice(&answer.body).map_err(|_| odd("no JSON"))
}

fn odd(what: &str) -> Failure {
    Failure::Refused {
        status: None,
        reason: format!("the answer did not come from a proxy: {what}"),
    }
}

/// Somebody else's text for a terminal: one line, no control characters, not endless.
pub(super) fn plain(text: &str) -> String {
    let kept = text.chars().filter(|c| !c.is_control());
    kept.take(MAX_SHOWN_CHARS).collect()
}
