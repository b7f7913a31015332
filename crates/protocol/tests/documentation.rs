//! The pages under `docs/` and the citations of them agree.
//!
//! Code cites a section as `docs/wire.md §5` or `docs/design.md §3.2`. These tests read the whole repository: each cited
//! section exists, each section stands in its page's contents, and each link within the repository leads somewhere.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // for tests: a failure is a finding

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const SPECIFICATIONS: [&str; 2] = ["docs/wire.md", "docs/design.md"];
const SKIPPED_DIRECTORIES: [&str; 4] = ["target", "node_modules", "build", "docs"];
const TEXT_FILES: [&str; 9] = ["rs", "mjs", "js", "json", "toml", "sql", "md", "sh", "yml"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// The section numbers of a page, from headings such as `### 3.2 Revocations`, each with its own anchor above it.
fn sections(page: &str) -> BTreeSet<String> {
    let lines: Vec<&str> = page.lines().collect();
    let mut found = BTreeSet::new();
    for (i, line) in lines.iter().enumerate() {
        let Some(heading) = line.strip_prefix("## ").or_else(|| line.strip_prefix("### ")) else {
            continue;
        };
        if !heading.starts_with(|c: char| c.is_ascii_digit()) {
            continue;
        }
        let number = number_at(heading);
        assert_eq!(
            lines[i - 1],
            format!("<a id=\"s{number}\"></a>"),
            "above {line:?}"
        );
        assert!(
            page.contains(&format!("](#s{number})\n")),
            "the contents leave out {line:?}"
        );
        found.insert(number);
    }
    found
}

/// `3.2` of `3.2 Revocations`, of `3.2)` and of `3.2.`
fn number_at(text: &str) -> String {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    text[..end].trim_end_matches('.').to_owned()
}

/// All numbers of a citation that names several sections: `5, §6 and §8.1`.
fn numbers_at(text: &str) -> Vec<String> {
    let mut numbers = Vec::new();
    let mut rest = text;
    loop {
        let number = number_at(rest);
        rest = &rest[number.len()..];
        numbers.push(number);
        match rest.strip_prefix(", §").or_else(|| rest.strip_prefix(" and §")) {
            Some(next) => rest = next,
            None => return numbers,
        }
    }
}

/// Every text file of the repository outside `docs/`.
fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with('.') && name != ".ci" && name != ".github" {
            continue;
        }
        if path.is_dir() {
            if !SKIPPED_DIRECTORIES.contains(&name.as_str()) {
                files(&path, found);
            }
        } else if path
            .extension()
            .is_some_and(|e| TEXT_FILES.iter().any(|t| e == *t))
        {
            found.push(path);
        }
    }
}

/// Whether a page has this anchor: one of its own, or the one that GitHub makes of a heading.
fn has_anchor(page: &str, anchor: &str) -> bool {
    let of_heading = |line: &str| -> String {
        let text = line.trim_start_matches('#').trim().to_lowercase();
        text.chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect()
    };
    page.contains(&format!("<a id=\"{anchor}\"></a>"))
        || page
            .lines()
            .any(|line| line.starts_with('#') && of_heading(line) == anchor)
}

#[test]
fn every_cited_section_exists() {
    let mut paths = Vec::new();
    files(&root(), &mut paths);
    let this_file = Path::new(file!()).file_name().unwrap();
    let mut wrong = Vec::new();
    let mut citations = 0;
    for page in SPECIFICATIONS {
        let known = sections(&read(page));
        assert!(known.len() > 7, "{page} has only {known:?}");
        let cited_as = format!("{page} §");
        for path in paths.iter().filter(|path| path.file_name() != Some(this_file)) {
            let text = fs::read_to_string(path).unwrap();
            for (at, _) in text.match_indices(&cited_as) {
                for number in numbers_at(&text[at + cited_as.len()..]) {
                    citations += 1;
                    if !known.contains(&number) {
                        wrong.push(format!("{}: {page} §{number}", path.display()));
                    }
                }
            }
        }
    }
    assert!(citations > 100, "only {citations} citations were found");
    assert!(wrong.is_empty(), "no such section:\n{}", wrong.join("\n"));
}

#[test]
fn every_error_code_is_documented() {
    let page = read("docs/wire.md");
    let missing: Vec<&str> = clawdentity_protocol::code::ALL
        .iter()
        .map(|code| code.name)
        .filter(|name| !page.contains(&format!("`{name}`")))
        .collect();
    assert!(missing.is_empty(), "docs/wire.md §8 leaves out {missing:?}");
}

#[test]
fn every_link_within_the_repository_leads_somewhere() {
    let mut wrong = Vec::new();
    let pages = [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CHANGELOG.md",
        "docs/settings.md",
        "docs/costs.md",
        "docs/operations.md",
        "docs/quickstart.md",
    ]
    .into_iter()
    .chain(SPECIFICATIONS);
    for page in pages {
        let text = read(page);
        let directory = root().join(page).parent().unwrap().to_owned();
        for target in text
            .split("](")
            .skip(1)
            .map(|rest| rest.split(')').next().unwrap())
        {
            if target.starts_with("https://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let linked = if file.is_empty() {
                root().join(page)
            } else {
                directory.join(file)
            };
            let exists = linked.exists()
                && (anchor.is_empty() || has_anchor(&fs::read_to_string(&linked).unwrap(), anchor));
            if !exists {
                wrong.push(format!("{page}: {target}"));
            }
        }
    }
    assert!(wrong.is_empty(), "dead links:\n{}", wrong.join("\n"));
}
