//! Takes over the mail that the TypeScript proxy kept for this agent, when its session first wakes.
//!
//! That proxy kept one value in the object's key-value storage. The session's rows are written and the value is deleted
//! within one step, before anything else of the session is read, and the platform makes a step durable as a whole. If a
//! step fails in between, the next wake goes on: what is there already is not written again. So each message arrives once.
//! What cannot be read is kept under a key of its own.

use serde_json::json;
use wasm_bindgen::prelude::wasm_bindgen;
use wasm_bindgen::{JsCast, JsValue};
use worker::State;

use super::awake::{META_AGENT, Moment};
use super::failure::Failure;
use super::rows::Identity;
use super::tables::{Tables, int};
use crate::core::relay_queue::calls::is_notice;
use crate::core::relay_queue::takeover::{KEY, KEY_SET_ASIDE, KeptMail, Outcome, Waiting};
use crate::core::takeover::PAIR_ID;
use crate::protocol::did::AgentDid;
use crate::protocol::ids::{MessageId, Ulid};

#[wasm_bindgen]
extern "C" {
    /// `storage.kv`: key-value storage whose calls are synchronous, so that they are part of the step that makes them.
    type SyncKv;

    #[wasm_bindgen(method, catch)]
    fn get(this: &SyncKv, key: &str) -> Result<JsValue, JsValue>;

    #[wasm_bindgen(method, catch)]
    fn put(this: &SyncKv, key: &str, value: &JsValue) -> Result<(), JsValue>;

    #[wasm_bindgen(method, catch)]
    fn delete(this: &SyncKv, key: &str) -> Result<bool, JsValue>;
}

/// Where that proxy kept it.
pub struct Earlier {
    kv: Option<SyncKv>,
}

impl Earlier {
    /// Of the object with this state, which is given back.
    pub fn of(state: State) -> (Self, State) {
        let state = state._inner();
        let kv = state
            .storage()
            .and_then(|storage| js_sys::Reflect::get(&storage, &"kv".into()));
        let kv = kv.ok().filter(JsValue::is_object).map(JsCast::unchecked_into);
        (Self { kv }, state.into())
    }

    /// Whether it holds anything.
    pub fn is_empty(&self) -> Result<bool, Failure> {
        Ok(self.stored()?.is_none())
    }

    /// Moves everything into the session's tables.
    pub(super) fn take_over(&self, tables: &mut Tables, moment: &Moment) -> Result<(), Failure> {
        let Some(text) = self.stored()? else {
            return Ok(());
        };
        let kept = KeptMail::parse(&text);
        write(&kept, tables, moment)?;
        if !kept.set_aside.is_empty() {
            let texts = serde_json::to_string(&kept.set_aside).unwrap_or_default();
            self.kv()?.put(KEY_SET_ASIDE, &texts.into()).map_err(failed)?;
            let fields = json!({ "agentDid": tables.meta(META_AGENT)?, "entries": kept.set_aside.len() });
            moment.app.log.error("proxy.takeover.mail_set_aside", fields);
        }
        self.kv()?.delete(KEY).map_err(failed)?;
        let fields = json!({
            "agentDid": tables.meta(META_AGENT)?,
            "waiting": kept.waiting.len(),
            "outcomes": kept.outcomes.len(),
        });
        moment.app.log.info("proxy.takeover.mail", fields);
        Ok(())
    }

    /// Its JSON.
    fn stored(&self) -> Result<Option<String>, Failure> {
        let value = self.kv()?.get(KEY).map_err(failed)?;
        if value.is_undefined() {
            return Ok(None);
        }
        let text = js_sys::JSON::stringify(&value).map_err(failed)?;
        Ok(Some(text.as_string().unwrap_or_default()))
    }

    fn kv(&self) -> Result<&SyncKv, Failure> {
        self.kv
            .as_ref()
            .ok_or_else(|| Failure::new("the object has no key-value storage"))
    }
}

fn failed(error: JsValue) -> Failure {
    worker::Error::from(error).into()
}

fn write(kept: &KeptMail, tables: &mut Tables, moment: &Moment) -> Result<(), Failure> {
    for mail in &kept.waiting {
        if is_there(tables, &mail.sender, &mail.request_id)? {
            continue;
        }
        belongs_to(tables, &mail.recipient)?;
        insert(tables, mail, moment)?;
    }
    for outcome in &kept.outcomes {
        if outcome.expires_at_ms <= moment.now_ms || is_there(tables, &outcome.sender, &outcome.request_id)? {
            continue;
        }
        belongs_to(tables, &outcome.recipient)?;
        put_outcome(tables, outcome, moment)?;
    }
    Ok(())
}

fn is_there(tables: &Tables, sender: &AgentDid, request_id: &MessageId) -> Result<bool, Failure> {
    let query = "SELECT 1 AS found FROM mail WHERE request_id = ? AND sender_did = ?";
    let values = vec![request_id.as_str().into(), sender.as_str().into()];
    let live: Vec<serde::de::IgnoredAny> = tables.rows(query, values)?;
    Ok(!live.is_empty() || tables.outcome(sender, request_id)?.is_some())
}

fn belongs_to(tables: &Tables, agent: &AgentDid) -> Result<(), Failure> {
    match tables.meta(META_AGENT)? {
        Some(_) => Ok(()),
        None => tables.set_meta(META_AGENT, Some(agent.as_str())),
    }
}

/// Nothing is known of the token that it came with, nor of what its payload hashed to when it came. Mail to oneself, a
/// group's and a notice came by no pair.
fn insert(tables: &Tables, mail: &Waiting, moment: &Moment) -> Result<(), Failure> {
    let by_pair = mail.group_id.is_none()
        && mail.sender != mail.recipient
        && !mail.delivery_source.as_deref().is_some_and(is_notice);
    let identity = identity(&mail.request_id, mail.deliver_id, &mail.sender, moment)?;
    let query = "INSERT INTO mail (request_id, sender_did, deliver_id, attempts, due_at_ms, created_at_ms, expires_at_ms, \
                 bytes, delivery_source, group_id, conversation_id, reply_to, pair_id, payload) \
                 VALUES (?, ?, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let values = vec![
        identity.request_id.as_str().into(),
        identity.sender.as_str().into(),
        identity.stored_deliver_id().into(),
        int(mail.created_at_ms),
        int(mail.created_at_ms),
        int(mail.expires_at_ms),
        int(mail.payload.get().len() as u64),
        mail.delivery_source.clone().into(),
        mail.group_id.map(|id| id.to_string()).into(),
        mail.conversation_id.clone().into(),
        mail.reply_to.clone().into(),
        by_pair.then(|| PAIR_ID.to_owned()).into(),
        mail.payload.get().into(),
    ];
    tables.run(query, values)
}

fn put_outcome(tables: &mut Tables, outcome: &Outcome, moment: &Moment) -> Result<(), Failure> {
    let identity = identity(&outcome.request_id, outcome.deliver_id, &outcome.sender, moment)?;
    let at_ms = outcome.updated_at_ms.min(moment.now_ms);
    tables.put_outcome(&identity, outcome.state, outcome.reason.as_deref(), at_ms)
}

fn identity(
    request_id: &MessageId,
    deliver_id: Option<Ulid>,
    sender: &AgentDid,
    moment: &Moment,
) -> Result<Identity, Failure> {
    let deliver_id = match deliver_id.or_else(|| request_id.as_ulid()) {
        Some(id) => id,
        None => moment.app.new_ulid()?,
    };
    Ok(Identity {
        request_id: request_id.clone(),
        sender: sender.clone(),
        deliver_id,
        hash: None,
    })
}
