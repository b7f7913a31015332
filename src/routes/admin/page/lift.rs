//! What a lift will do, said before it is done.

use super::{id_of, page, paragraph, query};
use crate::app::App;
use crate::core::feed::Place;
use crate::core::operator_page::Session;
use crate::core::operator_page::html::{form, hidden};
use crate::error::ApiError;
use crate::http::{Incoming, Response};
use crate::protocol::revocation::{Source, Subject};
use crate::protocol::time::iso_ms;
use crate::routes::admin::{bad_input, unavailable};
use crate::trust::ledger::feed;

pub async fn ask(app: &App, session: &Session, incoming: &Incoming) -> Result<Response, ApiError> {
    let seq = id_of(query(incoming, "seq"))?;
    let place = Place {
        since: seq.saturating_sub(1),
        epoch: None,
    };
    let found = feed::page(app, &place, 1).await;
    let found = found.map_err(|error| unavailable(app, &error))?;
    let item = found.items.into_iter().find(|item| item.seq == seq);
    let item = item.ok_or_else(|| bad_input("the ledger has no such number"))?;
    let whom = match &item.subject {
        Subject::Agent { agent } => {
            format!(
                "The agent {agent} will be admitted again, with the tokens that were revoked by the same event"
            )
        }
        Subject::Token { jti, .. } => format!("The token {jti} will be admitted again"),
        Subject::Session { .. } | Subject::Lift { .. } => {
            return Err(bad_input("this number cannot be lifted"));
        }
    };
    let mut main = paragraph(&format!(
        "{whom}. Every isolate follows within 30 seconds. Mail that was dead-lettered does not come back. Readers of the feed \
         learn of the lift by a number of its own."
    ));
    main += &paragraph(&format!(
        "It was revoked on {} by {}: {}.",
        iso_ms(item.revoked_at_ms),
        match item.source {
            Source::Operator => "an operator",
            Source::Queue => "the registry's event",
            Source::Crl => "the registry's list",
            Source::Other => "a source that a newer version knows",
        },
        item.reason.as_deref().unwrap_or("no reason was given"),
    ));
    let mut fields = hidden("seq", &seq.to_string());
    if item.source != Source::Operator {
        main += r#"<div class="problem"><p>The registry said this. A lift here stays until the registry says it again in a new event.</p></div>"#;
        fields += r#"<p class="line"><input id="force" name="force" type="checkbox" value="true" required> <label for="force">Lift it against the registry's word</label></p>"#;
    }
    main += &form("/admin/lift", &session.csrf, &fields, &format!("Lift {seq}"));
    main += r#"<p><a href="/admin">Back, without lifting</a></p>"#;
    Ok(page(app, 200, &format!("Lift {seq}?"), session, &main))
}
