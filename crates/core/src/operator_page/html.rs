//! The page's HTML: small functions that return text, no template engine.

use std::fmt::Write as _;

/// The page's only style sheet.
pub const STYLE: &str = include_str!("style.css");

/// Text as HTML, in an attribute too.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for each in text.chars() {
        match each {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            each => escaped.push(each),
        }
    }
    escaped
}

/// A whole document. `title` is text, `main` is HTML; `csrf`: of the session, where there is one.
pub fn document(title: &str, environment: &str, csrf: Option<&str>, main: &str) -> String {
    let sign_out = csrf.map_or_else(String::new, |csrf| {
        format!(
            r#"<nav aria-label="Operator"><a href="/admin">Overview</a>{}</nav>"#,
            form("/admin/sign-out", csrf, "", "Sign out")
        )
    });
    let (title, environment) = (escape(title), escape(environment));
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title} · Clawdentity proxy</title>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <link rel=\"stylesheet\" href=\"/admin/style.css\"></head><body>\
         <a class=\"skip\" href=\"#main\">Skip to the content</a>\
         <header><p>Clawdentity proxy <strong>{environment}</strong></p>{sign_out}</header>\
         <main id=\"main\" tabindex=\"-1\"><h1>{title}</h1>{main}</main></body></html>"
    )
}

/// A form with one button. `fields` is HTML.
pub fn form(action: &str, csrf: &str, fields: &str, button: &str) -> String {
    format!(
        r#"<form method="post" action="{}"><input type="hidden" name="csrf" value="{}">{fields}<button>{}</button></form>"#,
        escape(action),
        escape(csrf),
        escape(button)
    )
}

/// A hidden field.
pub fn hidden(name: &str, value: &str) -> String {
    format!(
        r#"<input type="hidden" name="{}" value="{}">"#,
        escape(name),
        escape(value)
    )
}

/// A field with its label. `id` is the only one of its page; `attributes` are HTML.
pub fn field(id: &str, name: &str, label: &str, attributes: &str) -> String {
    let (id, name, label) = (escape(id), escape(name), escape(label));
    format!(r#"<p><label for="{id}">{label}</label><input id="{id}" name="{name}" {attributes}></p>"#)
}

/// A table; its cells are HTML. Says `empty` where there are no rows.
pub fn table(caption: &str, heads: &[&str], rows: &[Vec<String>], empty: &str) -> String {
    if rows.is_empty() {
        return format!("<p>{}</p>", escape(empty));
    }
    let mut html = format!(
        "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"{0}\"><table><caption>{0}</caption><thead><tr>",
        escape(caption)
    );
    for head in heads {
        let _ = write!(html, "<th scope=\"col\">{}</th>", escape(head));
    }
    html.push_str("</tr></thead><tbody>");
    for row in rows {
        html.push_str("<tr>");
        for cell in row {
            let _ = write!(html, "<td>{cell}</td>");
        }
        html.push_str("</tr>");
    }
    html.push_str("</tbody></table></div>");
    html
}

/// Terms and what they are; both are text.
pub fn facts(pairs: &[(&str, String)]) -> String {
    let mut html = String::from("<dl>");
    for (term, value) in pairs {
        let _ = write!(
            html,
            "<div><dt>{}</dt><dd>{}</dd></div>",
            escape(term),
            escape(value)
        );
    }
    html.push_str("</dl>");
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_shown_can_become_markup() {
        let evil = "<script>\"'&";
        let escaped = "&lt;script&gt;&quot;&#39;&amp;";
        assert_eq!(escape(evil), escaped);
        for html in [
            document(evil, evil, Some(evil), ""),
            form(evil, evil, "", evil),
            hidden(evil, evil),
            field(evil, evil, evil, ""),
            table(evil, &[evil], &[vec![String::new()]], evil),
            table("", &[], &[], evil),
            facts(&[(evil, evil.to_owned())]),
        ] {
            assert!(html.contains(escaped) && !html.contains("<script"), "{html}");
        }
    }
}
