//! What the page's forms ask for.

use serde_json::{Value, json};

use super::{back, field, id_of};
use crate::app::App;
use crate::consumers::dead_letters as letters;
use crate::core::operator_page::set_cookie;
use crate::core::router::PageRoute;
use crate::error::ApiError;
use crate::http::{Incoming, Response};
use crate::revocation::reconcile::reconcile;
use crate::revocation::{Lifted, lift};
use crate::routes::admin::{bad_input, dead_letters, keys, revoke, unavailable};
use crate::trust;

/// What the overview says after a form was taken, by the word in its query.
pub const DONE: [(&str, &str); 8] = [
    ("revoked", "Revoked, everywhere, within a second."),
    ("lifted", "Lifted. Every isolate follows within 30 seconds."),
    ("reconciled", "Reconciled with the registry's list."),
    (
        "partial",
        "Reconciled in part: there is more than one run does. Press Reconcile now again.",
    ),
    (
        "refreshed",
        "The registry's signing keys were fetched. Every isolate follows within 30 seconds.",
    ),
    ("applied", "The dead letter was applied and is gone."),
    (
        "failed",
        "The dead letter failed again and is kept; its reason is in the list.",
    ),
    ("dropped", "The dead letter was dropped."),
];

/// Does what a form asks for.
pub async fn act(app: &App, route: PageRoute, incoming: Incoming) -> Result<Response, ApiError> {
    let done = match route {
        PageRoute::Revoke => {
            let text = |name| {
                field(&incoming, name)
                    .map(|value| value.trim().to_owned())
                    .filter(|value| !value.is_empty())
            };
            let mut order = json!({ "kind": "agent", "agentDid": text("agentDid").unwrap_or_default() });
            if let (Some(reason), Some(order)) = (text("reason"), order.as_object_mut()) {
                order.insert("reason".into(), Value::String(reason));
            }
            let body = order.to_string().into_bytes();
            revoke::handle(app, Incoming { body, ..incoming }).await?;
            "revoked"
        }
        PageRoute::Lift => {
            let seq = id_of(field(&incoming, "seq"))?;
            let force = field(&incoming, "force").is_some();
            let lifted = lift(app, seq, force, None).await;
            match lifted.map_err(|error| unavailable(app, &error))? {
                Lifted::Now(_) | Lifted::Before(_) => "lifted",
                Lifted::NeedsForce(_) => {
                    return Err(bad_input(
                        "the registry revoked this: confirm that you lift it nevertheless",
                    ));
                }
                Lifted::IsALift | Lifted::NoSuchRow => {
                    return Err(bad_input("this number cannot be lifted"));
                }
            }
        }
        PageRoute::Reconcile => {
            let report = reconcile(app).await.map_err(|error| unavailable(app, &error))?;
            let report = serde_json::to_value(report).unwrap_or_default();
            if report.get("outcome").and_then(Value::as_str) == Some("partial") {
                "partial"
            } else {
                "reconciled"
            }
        }
        PageRoute::RefreshKeys => {
            keys::handle(app).await?;
            "refreshed"
        }
        PageRoute::LetterAction => letter_action(app, &incoming).await?,
        _ => {
            let secure = incoming.target.is_https();
            return Ok(back("/admin", Some(set_cookie(None, secure))));
        }
    };
    Ok(back(&format!("/admin?done={done}"), None))
}

async fn letter_action(app: &App, incoming: &Incoming) -> Result<&'static str, ApiError> {
    let id = id_of(field(incoming, "id"))?;
    let d1 = |error: trust::DbError| unavailable(app, &error);
    if field(incoming, "action").as_deref() == Some("drop") {
        letters::drop_letter(app, id).await.map_err(d1)?;
        let fields = json!({ "requestId": incoming.request_id.as_str(), "id": id });
        app.log.warn("proxy.dead_letter.dropped", fields);
        return Ok("dropped");
    }
    let retried = letters::retry(app, id).await.map_err(d1)?;
    match retried.ok_or_else(dead_letters::not_found)? {
        letters::Retried::Failed { .. } => Ok("failed"),
        _ => Ok("applied"),
    }
}
