//! Reads the machine's own apt sources, to learn which mirror and keyring it trusts.

use std::path::Path;

/// One place Debian packages come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The archive's URI as the machine spells it.
    pub uri: String,
    /// The `signed-by` keyring, if one is named.
    pub signed_by: Option<String>,
}

/// The mirror in `files` (name, text) that serves the suite `codename` of Debian's main archive.
pub fn find(files: &[(String, String)], codename: &str) -> Option<Mirror> {
    files.iter().find_map(|(name, text)| {
        let entries = if name.ends_with(".sources") {
            deb822(text)
        } else {
            one_line(text)
        };
        entries
            .into_iter()
            .find(|e| e.suites.iter().any(|s| s == codename))
            .map(|e| e.mirror)
    })
}

/// All sources files of this machine, `.sources` before `.list`.
pub fn read(etc_apt: &Path) -> Vec<(String, String)> {
    let mut paths = vec![etc_apt.join("sources.list")];
    if let Ok(parts) = std::fs::read_dir(etc_apt.join("sources.list.d")) {
        paths.extend(parts.flatten().map(|e| e.path()));
    }
    paths.sort_by_key(|p| (p.extension().is_none_or(|e| e != "sources"), p.clone()));
    paths
        .iter()
        .filter_map(|p| {
            Some((
                p.to_string_lossy().into_owned(),
                std::fs::read_to_string(p).ok()?,
            ))
        })
        .collect()
}

struct Entry {
    mirror: Mirror,
    suites: Vec<String>,
}

fn one_line(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or("").trim();
        let Some(rest) = line
            .strip_prefix("deb")
            .filter(|r| r.starts_with([' ', '\t']))
        else {
            continue;
        };
        let (options, rest) = match rest
            .trim()
            .strip_prefix('[')
            .and_then(|r| r.split_once(']'))
        {
            Some((options, rest)) => (options, rest),
            None => ("", rest),
        };
        let signed_by = options
            .split_whitespace()
            .find_map(|o| o.strip_prefix("signed-by="))
            .map(str::to_owned);
        let mut words = rest.split_whitespace().map(str::to_owned);
        if let (Some(uri), Some(suite)) = (words.next(), words.next())
            && words.any(|component| component == "main")
        {
            entries.push(Entry {
                mirror: Mirror { uri, signed_by },
                suites: vec![suite],
            });
        }
    }
    entries
}

fn deb822(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    let uncommented: Vec<&str> = text.lines().filter(|l| !l.starts_with('#')).collect();
    for stanza in uncommented.split(|l| l.trim().is_empty()) {
        let field = |name: &str| {
            let at = stanza.iter().position(|l| {
                l.split_once(':')
                    .is_some_and(|(key, _)| key.eq_ignore_ascii_case(name))
            })?;
            let mut value = stanza[at].split_once(':')?.1.trim().to_owned();
            for more in stanza[at + 1..]
                .iter()
                .take_while(|l| l.starts_with([' ', '\t']))
            {
                value = format!("{value}\n{}", more.trim_end());
            }
            Some(value)
        };
        let words = |name| -> Vec<String> {
            field(name)
                .unwrap_or_default()
                .split_whitespace()
                .map(str::to_owned)
                .collect()
        };
        let enabled = !field("Enabled").is_some_and(|v| v.eq_ignore_ascii_case("no"));
        let usable = enabled
            && words("Types").iter().any(|t| t == "deb")
            && words("Components").iter().any(|c| c == "main");
        // An inline key spans lines; only a path can be passed on.
        let signed_by = field("Signed-By").filter(|v| v.starts_with('/') && !v.contains('\n'));
        if let (true, Some(uri)) = (usable, words("URIs").first()) {
            let mirror = Mirror {
                uri: uri.clone(),
                signed_by,
            };
            entries.push(Entry {
                mirror,
                suites: words("Suites"),
            });
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(name: &str, text: &str) -> Vec<(String, String)> {
        vec![(name.to_owned(), text.to_owned())]
    }

    #[test]
    fn deb822_takes_the_stanza_of_the_release_itself() {
        let text = "Types: deb\n# a comment\nURIs: http://mirror.invalid/debian-security\nSuites: bookworm-security\n\
                    Components: main\n\nTypes: deb\nURIs: http://mirror.invalid/debian\nSuites: bookworm bookworm-updates\n\
                    Components: main contrib\nSigned-By: /keys/debian.gpg\n";
        let mirror = find(&files("debian.sources", text), "bookworm").unwrap();
        assert_eq!(mirror.uri, "http://mirror.invalid/debian");
        assert_eq!(mirror.signed_by.as_deref(), Some("/keys/debian.gpg"));
        assert_eq!(find(&files("debian.sources", text), "sid"), None);
    }

    #[test]
    fn deb822_skips_disabled_source_only_and_inline_keys() {
        let text = "Types: deb-src\nURIs: a\nSuites: x\nComponents: main\n\nEnabled: no\nTypes: deb\nURIs: b\nSuites: x\n\
                    Components: main\n\nTypes: deb\nURIs: c\nSuites: x\nComponents: main\nSigned-By:\n -----BEGIN\n .\n abc\n";
        let mirror = find(&files("a.sources", text), "x").unwrap();
        assert_eq!(
            mirror,
            Mirror {
                uri: "c".into(),
                signed_by: None
            }
        );
    }

    #[test]
    fn one_line_style_with_and_without_options() {
        let text = "# deb http://no bookworm main\ndeb-src http://src bookworm main\n\
                    deb [arch=amd64 signed-by=/k.gpg] http://with bookworm main # tail\ndeb http://plain trixie main\n";
        let with = find(&files("sources.list", text), "bookworm").unwrap();
        assert_eq!(
            with,
            Mirror {
                uri: "http://with".into(),
                signed_by: Some("/k.gpg".into())
            }
        );
        let plain = find(&files("sources.list", text), "trixie").unwrap();
        assert_eq!(
            plain,
            Mirror {
                uri: "http://plain".into(),
                signed_by: None
            }
        );
    }

    #[test]
    fn other_peoples_archives_are_not_debians() {
        assert_eq!(
            find(
                &files("x.list", "deb http://vendor.invalid/apt vendor main\n"),
                "bookworm"
            ),
            None
        );
        assert_eq!(
            find(
                &files("x.list", "deb http://vendor.invalid/apt bookworm extra\n"),
                "bookworm"
            ),
            None
        );
    }
}
