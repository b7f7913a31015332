use std::collections::HashMap;

use super::*;

fn parse(pairs: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let mut env: HashMap<String, String> = [
        ("ENVIRONMENT", "staging"),
        ("REGISTRY_INTERNAL_SERVICE_ID", "proxy"),
        ("REGISTRY_INTERNAL_SERVICE_SECRET", "s3cret-value"),
    ]
    .into_iter()
    .chain(pairs.iter().copied())
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .collect();
    env.retain(|_, value| value != "<unset>");
    Config::parse(|name| env.get(name).cloned()).map_err(|faults| {
        faults
            .into_iter()
            .map(|f| format!("{} {}", f.variable, f.message))
            .collect()
    })
}

#[test]
fn defaults_are_those_of_the_wire() {
    let config = parse(&[]).unwrap();
    assert_eq!(config.environment, Environment::Staging);
    assert_eq!(
        config.registry.url.as_str(),
        "https://dev.registry.clawdentity.com/"
    );
    assert_eq!(
        config.registry.expected_issuer.as_str(),
        "https://dev.registry.clawdentity.com"
    );
    assert_eq!(config.registry.validate_path, "/v1/agents/auth/validate");
    assert_eq!(
        (config.crl.refresh_interval_ms, config.crl.max_age_ms),
        (900_000, 3_600_000)
    );
    assert_eq!(config.crl.stale_behavior, CrlStaleBehavior::FailOpen);
    assert_eq!(
        (config.rate.agent_requests, config.rate.agent_window_ms),
        (60, 60_000)
    );
    assert_eq!(
        (config.relay.max_messages, config.relay.max_messages_per_sender),
        (2_500, 500)
    );
    assert_eq!(
        (config.relay.ttl_ms, config.relay.max_frame_bytes),
        (3_600_000, 1_048_576)
    );
    assert_eq!(config.identity_block, IdentityBlock::Off);
    assert_eq!(
        (config.version.as_str(), config.version_source),
        (env!("CARGO_PKG_VERSION"), "crate")
    );
    let production = parse(&[("ENVIRONMENT", "production")]).unwrap();
    assert_eq!(
        production.registry.url.as_str(),
        "https://registry.clawdentity.com/"
    );
}

#[test]
fn older_names_stand_in_and_blank_is_unset() {
    let config = parse(&[
        ("ENVIRONMENT", "local"),
        ("REGISTRY_URL", "  "),
        ("CLAWDENTITY_REGISTRY_URL", "http://127.0.0.1:8788"),
        ("REGISTRY_INTERNAL_SERVICE_ID", "<unset>"),
        ("BOOTSTRAP_INTERNAL_SERVICE_ID", "old"),
        ("PROXY_VERSION", "1.2.3"),
        ("INJECT_IDENTITY_INTO_MESSAGE", "On"),
        ("LISTEN_PORT", "not looked at"),
    ])
    .unwrap();
    assert_eq!(config.registry.expected_issuer.as_str(), "http://127.0.0.1:8788");
    assert_eq!(config.registry.service_id.expose(), "old");
    assert_eq!(
        (config.version.as_str(), config.version_source),
        ("1.2.3", "PROXY_VERSION")
    );
    assert_eq!(config.identity_block, IdentityBlock::Hooks);
}

#[test]
fn the_identity_block_has_three_choices() {
    for (values, expect) in [
        (["true", "1", "yes", "ON"].as_slice(), IdentityBlock::Hooks),
        (["false", "0", "No", "off", " "].as_slice(), IdentityBlock::Off),
        (["all", "All"].as_slice(), IdentityBlock::All),
    ] {
        for value in values {
            let config = parse(&[("INJECT_IDENTITY_INTO_MESSAGE", value)]).unwrap();
            assert_eq!(config.identity_block, expect, "{value}");
        }
    }
}

#[test]
fn every_fault_is_reported_at_once_and_nothing_secret_with_it() {
    let faults = parse(&[
        ("ENVIRONMENT", "prod"),
        ("REGISTRY_URL", "ftp://x"),
        ("REGISTRY_INTERNAL_SERVICE_SECRET", "<unset>"),
        ("CRL_REFRESH_INTERVAL_MS", "15m"),
        ("CRL_STALE_BEHAVIOR", "open"),
        ("RELAY_RETRY_INITIAL_MS", "60000"),
        ("RELAY_RETRY_JITTER_RATIO", "1.5"),
        ("AGENT_RATE_LIMIT_REQUESTS_PER_MINUTE", "+5"),
        ("INJECT_IDENTITY_INTO_MESSAGE", "maybe"),
        ("ALLOW_ALL_VERIFIED", "false"),
        ("ADMIN_TOKEN", "short-and-secret"),
    ])
    .unwrap_err();
    expect_test::expect![[r#"
        [
            "ALLOW_ALL_VERIFIED is no longer supported: remove it",
            "ENVIRONMENT must be one of local, development, staging, production",
            "REGISTRY_URL must be an http(s) URL with a host and no user info",
            "REGISTRY_INTERNAL_SERVICE_SECRET is required",
            "CRL_REFRESH_INTERVAL_MS must be a whole number from 1 to 86400000",
            "CRL_STALE_BEHAVIOR must be one of fail-open, fail-closed",
            "AGENT_RATE_LIMIT_REQUESTS_PER_MINUTE must be a whole number from 1 to 1000000",
            "INJECT_IDENTITY_INTO_MESSAGE must be true, 1, yes, on or false, 0, no, off, or all",
            "RELAY_RETRY_MAX_MS must not be below RELAY_RETRY_INITIAL_MS",
            "RELAY_RETRY_JITTER_RATIO must be a number from 0 to 1",
            "ADMIN_TOKEN must be 32-1024 visible characters",
        ]
    "#]]
    .assert_debug_eq(&faults);
    assert!(!format!("{faults:?}").contains("short-and-secret"));
}

#[test]
fn outside_local_the_registry_is_reached_by_https_alone() {
    for environment in ["local", "development", "staging", "production"] {
        for (url, expect) in [
            ("https://registry.example.com", true),
            ("HTTPS://registry.example.com", true),
            ("http://registry.example.com", environment == "local"),
            ("HTTP://registry.example.com", environment == "local"),
            ("http://127.0.0.1:8788", environment == "local"),
        ] {
            for name in ["REGISTRY_URL", "CLAWDENTITY_REGISTRY_URL"] {
                let config = parse(&[("ENVIRONMENT", environment), (name, url)]);
                assert_eq!(config.is_ok(), expect, "{environment} {name} {url}");
                let faults = config.err().unwrap_or_default();
                assert!(
                    faults.iter().all(|fault| fault.starts_with("REGISTRY_URL ")),
                    "{faults:?}"
                );
            }
        }
    }
}

#[test]
fn the_secrets_of_the_example_open_nothing_outside_local() {
    let example: Vec<(&str, &str)> = include_str!("../../.dev.vars.example")
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name, value.trim_matches('"')))
        .collect();
    let value_of = |name: &str| example.iter().find(|(n, _)| *n == name).unwrap().1;
    let secrets = ["REGISTRY_INTERNAL_SERVICE_SECRET", "ADMIN_TOKEN", "FEED_TOKEN"];
    for environment in ["development", "staging", "production", "local"] {
        for name in secrets {
            // One secret's published value is no better in another's place.
            for value in secrets.map(value_of) {
                let result = parse(&[("ENVIRONMENT", environment), (name, value)]);
                assert_eq!(result.is_ok(), environment == "local", "{environment} {name}");
                let faults = result.err().unwrap_or_default();
                assert!(faults.iter().all(|f| f.starts_with(name) && !f.contains(value)));
            }
        }
        let old_name = [
            ("ENVIRONMENT", environment),
            ("REGISTRY_INTERNAL_SERVICE_SECRET", "<unset>"),
            (
                "BOOTSTRAP_INTERNAL_SERVICE_SECRET",
                value_of("REGISTRY_INTERNAL_SERVICE_SECRET"),
            ),
        ];
        assert_eq!(parse(&old_name).is_ok(), environment == "local");
    }
}

/// The table of docs/settings.md is `SETTINGS`, row for row.
#[test]
fn the_settings_page_lists_every_setting() {
    let rows = rows_of(include_str!("../../docs/settings.md"));
    let expected: Vec<String> = SETTINGS.iter().map(documented_row).collect();
    assert_eq!(
        rows,
        expected,
        "the table of docs/settings.md should be:\n{}",
        expected.join("\n")
    );
}

/// README.md shows a few of these rows, and shows them as they are.
#[test]
fn the_readme_repeats_rows_of_the_settings_page() {
    let rows = rows_of(include_str!("../../README.md"));
    assert!(!rows.is_empty());
    let expected: Vec<String> = SETTINGS.iter().map(documented_row).collect();
    for row in rows {
        assert!(
            expected.iter().any(|documented| documented == row),
            "no row of docs/settings.md is:\n{row}"
        );
    }
}

fn rows_of(page: &str) -> Vec<&str> {
    page.lines()
        .filter(|line| line.starts_with("| `") && line.matches('|').count() == 5)
        .collect()
}

fn documented_row(setting: &Setting) -> String {
    let aliases: String = setting
        .aliases
        .iter()
        .map(|alias| format!(", `{alias}`"))
        .collect();
    let default = if setting.default.is_empty() {
        String::new()
    } else {
        format!("`{}`", setting.default)
    };
    let values = match setting.kind {
        Kind::Text(what) | Kind::Secret(what) => what.to_owned(),
        Kind::OneOf(words) => words.join(", "),
        Kind::FlagOr(word) => format!("true, false, {word}"),
        Kind::Int { min, max } => format!("{min} to {max}"),
        Kind::Ratio { min, max } => format!("{min} to {max}"),
    };
    format!(
        "| `{}`{aliases} | {default} | {values} | {} |",
        setting.name, setting.about
    )
}

/// Every whole number at both ends of its range, and one past each.
#[test]
fn ranges_hold_at_both_ends() {
    let is_out = |name: &str, value: u64| {
        let own = format!("{name} must be a whole number");
        parse(&[(name, &value.to_string())])
            .is_err_and(|faults| faults.iter().any(|fault| fault.starts_with(&own)))
    };
    let mut seen = 0;
    for setting in SETTINGS {
        let Kind::Int { min, max } = &setting.kind else {
            continue;
        };
        seen += 1;
        for (value, out) in [
            (Some(*min), false),
            (Some(*max), false),
            (min.checked_sub(1), true),
            (max.checked_add(1), true),
        ] {
            if let Some(value) = value {
                assert_eq!(is_out(setting.name, value), out, "{} {value}", setting.name);
            }
        }
    }
    assert!(seen > 20, "{seen} settings are whole numbers");
}

#[test]
fn secrets_have_a_shortest_and_a_longest() {
    for (name, least, most) in [
        ("ADMIN_TOKEN", 32, 1024),
        ("FEED_TOKEN", 32, 1024),
        ("REGISTRY_INTERNAL_SERVICE_SECRET", 1, 1024),
    ] {
        let fits = |chars: usize| parse(&[(name, &"s".repeat(chars))]).is_ok();
        assert!(fits(least) && fits(most), "{name}");
        assert!(!fits(least - 1) || least == 1, "{name}");
        assert!(!fits(most + 1), "{name}");
    }
}
