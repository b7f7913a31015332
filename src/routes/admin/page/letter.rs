//! A dead letter's page: what came, why it could not be applied, and what can be done with it.

use super::{id_of, page, query};
use crate::app::App;
use crate::consumers::dead_letters as letters;
use crate::core::operator_page::Session;
use crate::core::operator_page::html::{self, escape, form, hidden};
use crate::error::ApiError;
use crate::http::{Incoming, Response};
use crate::routes::admin::{dead_letters, unavailable};

pub async fn show(app: &App, session: &Session, incoming: &Incoming) -> Result<Response, ApiError> {
    let id = id_of(query(incoming, "id"))?;
    let letter = letters::one(app, id).await;
    let letter = letter.map_err(|error| unavailable(app, &error))?;
    let letter = letter.ok_or_else(dead_letters::not_found)?;
    let action = |name: &str, button: &str| {
        let fields = hidden("id", &id.to_string()) + &hidden("action", name);
        form("/admin/dead-letters", &session.csrf, &fields, button)
    };
    let main = html::facts(&[
        ("Queue", letter.queue.clone()),
        ("Message", letter.message_id.clone()),
        (
            "Type",
            letter.kind.clone().unwrap_or_else(|| "unknown".to_owned()),
        ),
        ("Whom", letter.subject.clone().unwrap_or_default()),
        ("Since", letter.dead_lettered_at.clone()),
        ("Reason", letter.reason.clone()),
    ]) + "<h2>Body</h2><pre tabindex=\"0\" aria-label=\"Body\">"
        + &escape(letter.body.as_deref().unwrap_or(""))
        + "</pre>"
        + &action("retry", "Retry: apply it now")
        + &action("drop", "Drop it for good");
    Ok(page(app, 200, &format!("Dead letter {id}"), session, &main))
}
