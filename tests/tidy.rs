//! Is the code as `src/lib.rs`, `docs/` and the glossary say it is?

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Longest file, lines: one concept in each.
const FILE_LINES_MAX: usize = 800;

/// Files of `ring/src` that may hold unsafe code.
const RING_UNSAFE_FILES: [&str; 6] = [
    // Memory the caller vouches for.
    "ring/src/memory.rs",
    // A process that cannot be seen has a number that rustix does not allow.
    "ring/src/shared/credentials.rs",
    // Mappings are made and unmapped by hand.
    "ring/src/shared/file.rs",
    // The kernel's futexes are half a word.
    "ring/src/shared/futex.rs",
    // Locks of open file descriptions, which rustix does not have.
    "ring/src/shared/lock.rs",
    // Memory of any kind is seen as a slice of atomics.
    "ring/src/words.rs",
];

/// Files that may hold unsafe code, beside those of `ring/`.
const UNSAFE_FILES: [&str; 7] = [
    "src/net/wire/buffers.rs",
    "src/net/wire/event_loop.rs",
    "src/net/wire/fake.rs",
    "src/net/wire/kernel.rs",
    "src/net/wire/reuseport.rs",
    "src/net/wire/secure.rs",
    "src/net/wire/uring.rs",
];

/// Imports between modules of one layer that the layers allow; `docs/ARCHITECTURE.md` gives the reasons.
const SIDEWAYS: [(&str, &str); 4] = [
    ("config", "auth"),
    ("http", "ws"),
    ("api", "net"),
    ("api", "observe"),
];

/// Modules whose files must not import each other in a circle.
const WITHOUT_CIRCLES: [&str; 6] = ["api", "broker", "config", "dialect", "observe", "store"];

/// Names that nothing may have, because the field has a better word for it, and that word.
const RETIRED_NAMES: &[(&str, &str)] = &[
    ("Outbox", "SendQueue"),
    ("outbox_bytes_max", "send_queue_bytes_max"),
    ("Machine", "ConnectionTable"),
    ("Fanout", "PublicationWriter"),
    ("Inbox", "PublicationReader"),
    ("Gathering", "Coalescer"),
    ("Pump", "EventLoop"),
    ("Keep", "Retain"),
    ("Gone", "Clear"),
    ("KeptValues", "RetainedValues"),
    ("Recall", "GetRetained"),
    ("Kept", "Retained"),
    ("kept_refused", "retained_rejected"),
    ("enrol", "subscribe_server_side"),
    ("strike", "unsubscribe_server_side"),
    ("asked", "client_side"),
    ("Only", "BroadcastTarget"),
    ("broadcast_only", "broadcast_to"),
    ("is_meant", "matches_target"),
    ("PublishAs", "PublishWithRole"),
    ("SubscribeOwn", "SubscribePerUser"),
    ("UnsubscribeOwn", "UnsubscribePerUser"),
    ("Tag", "SubscriptionId"),
    ("TagRequest", "SubscriptionIdRequest"),
    ("Hole", "Placeholder"),
    ("filled", "with_subscription_id"),
    ("Taste", "SubscriberGroupKey"),
    ("Audience", "SubscriberGroup"),
    ("Membership", "SubscriptionRef"),
    ("Joiner", "NewSubscriber"),
    ("Census", "ProcessState"),
    ("Place", "CounterSlot"),
    ("Stamp", "PublicationMeta"),
    ("Heard", "Activity"),
    ("heard_ms", "last_activity_ms"),
    ("Need", "Requirement"),
    ("joins", "auto_subscribe"),
    ("opened", "permissive"),
    ("Arrived", "Online"),
    ("Departed", "Offline"),
    ("is_sound", "is_valid"),
    ("Unsound", "Invalid"),
    ("obey", "dispatch"),
    ("settle", "reap_ended"),
    ("judge", "inspect_head"),
    ("Verdict", "HandshakeDecision"),
    ("Arrival", "PendingRequest"),
    ("Ending", "CloseRequest"),
    ("Farewell", "CloseWait"),
    ("say_farewell", "peer_closed"),
    ("dismiss", "close_going_away"),
    ("hang_up", "on_eof"),
    ("DirtyLine", "ReadyQueue"),
    ("Wheel", "TimerWheel"),
    ("ring_alarms", "expired_timers"),
    ("Alarm", "Timer"),
    ("adopt", "register_socket"),
    ("admits_message", "check_rate_limit"),
    ("is_admitted", "auth_satisfied"),
    ("awaits_identity", "auth_pending"),
    ("relieve", "retry_congested"),
    ("held", "deferred"),
    ("HttpHost", "HttpHandler"),
    ("Host", "HttpHandler or HostSampler"),
    ("forget", "closed or release"),
    ("Vocabulary", "TermIndex"),
    ("learn", "intern"),
    ("Shape", "ValueRef"),
    ("Places", "ListenerLoader"),
    ("lay", "merge"),
    ("demand", "ensure"),
    ("doubt", "unknown_variable"),
    ("near", "suggestion"),
    ("Fallback", "DefaultValue"),
    ("Remark", "Notice"),
    ("Said", "TestSources"),
    ("ListedToken", "StaticToken"),
    ("Program", "ProgramHooks"),
    ("Work", "ServiceLoop"),
    ("Wish", "NotifyRequest"),
    ("drain_wait", "drain_grace_period"),
    ("drain_timeout", "drain_close_timeout"),
    ("notify_key", "notify_api_key"),
    ("on_expiry", "token_expiry_action"),
    ("origin_refusal", "origin_rejection"),
    ("capacity_refusal", "capacity_rejection"),
    ("cleanup_interval", "quota_sweep_interval"),
    ("refuse", "reject"),
    ("refused", "rejected"),
    ("refusal", "rejection"),
    ("Refusal", "Rejection"),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Files below `folder` with this extension, by their paths from the root.
fn files(folder: &str, extension: &str) -> Vec<String> {
    fn collect(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let is_generated = path.ends_with("target")
                || path.ends_with("node_modules")
                || path.ends_with(".git")
                || path.ends_with("corpus");
            if path.is_dir() && !is_generated {
                collect(&path, extension, found);
            } else if path.extension().is_some_and(|it| it == extension) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    collect(&root().join(folder), extension, &mut found);
    let relative = found.iter().map(|path| {
        let path = path.strip_prefix(root()).unwrap();
        path.to_string_lossy().into_owned()
    });
    let mut relative: Vec<_> = relative.collect();
    relative.sort();
    relative
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The code of a file without its comments and its tests at the end.
fn code(path: &str) -> String {
    let text = read(path);
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let lines = text.lines().map(|line| {
        let is_comment = line.trim_start().starts_with("//");
        if is_comment { "" } else { line }
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Words of code that follow `mark`, up to what cannot be in a path.
fn words_after<'a>(text: &'a str, mark: &str) -> Vec<&'a str> {
    let parts = text.split(mark).skip(1);
    let words = parts.map(|part| {
        let end = part.find(|c: char| !(c.is_alphanumeric() || c == '_'));
        &part[..end.unwrap_or(part.len())]
    });
    words.filter(|word| !word.is_empty()).collect()
}

/// The modules of `src/lib.rs`, each with the number of its layer.
fn layers() -> BTreeMap<String, usize> {
    let mut layer = None;
    let mut layers = BTreeMap::new();
    for line in read("src/lib.rs").lines() {
        if let Some(rest) = line.strip_prefix("// Layer ") {
            let number = rest.split(':').next().unwrap();
            layer = Some(number.parse().unwrap());
        } else if let Some(module) = line.strip_prefix("pub mod ") {
            let module = module.trim_end_matches(';').to_owned();
            layers.insert(module, layer.expect("a layer stands above its modules"));
        }
    }
    layers
}

#[test]
fn imports_point_only_to_lower_layers() {
    let layers = layers();
    assert!(layers.len() > 10, "{layers:?}");
    let mut wrong = String::new();
    for path in files("src", "rs") {
        let Some(module) = path.split('/').nth(1) else {
            continue;
        };
        let module = module.trim_end_matches(".rs");
        let Some(layer) = layers.get(module) else {
            continue;
        };
        let code = code(&path);
        let mut imported: BTreeSet<_> = words_after(&code, "crate::").into_iter().collect();
        for group in code.split("use crate::{").skip(1) {
            let group = group.split("};").next().unwrap_or_default();
            imported.extend(
                group
                    .split(',')
                    .map(|it| it.trim().split("::").next().unwrap()),
            );
        }
        for other in imported {
            let Some(other_layer) = layers.get(other) else {
                continue;
            };
            let is_sideways = SIDEWAYS.contains(&(module, other));
            if other != module && other_layer >= layer && !is_sideways {
                writeln!(
                    wrong,
                    "{path} (layer {layer}) imports {other} (layer {other_layer})"
                )
                .unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn files_of_a_module_do_not_import_each_other_in_a_circle() {
    for module in WITHOUT_CIRCLES {
        let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for path in files(&format!("src/{module}"), "rs") {
            let name = path.trim_start_matches(&format!("src/{module}/"));
            // Folders inside count as one file: their parts belong together.
            let name = name.split('/').next().unwrap().trim_end_matches(".rs");
            if name == "mod" || name == "tests" {
                continue;
            }
            let code = code(&path);
            let is_top = !path
                .trim_start_matches(&format!("src/{module}/"))
                .contains('/');
            let mut used: BTreeSet<_> = words_after(&code, &format!("crate::{module}::"))
                .into_iter()
                .map(str::to_owned)
                .collect();
            if is_top {
                used.extend(words_after(&code, "super::").into_iter().map(str::to_owned));
                for group in code.split("use super::{").skip(1) {
                    let group = group.split("};").next().unwrap_or_default();
                    let names = group
                        .split(',')
                        .map(|it| it.trim().split("::").next().unwrap());
                    used.extend(names.map(str::to_owned));
                }
            }
            used.remove(name);
            imports.entry(name.to_owned()).or_default().extend(used);
        }
        let mut left = imports.clone();
        // Files that import none of those left are taken away; a circle never gets that far.
        loop {
            let names: BTreeSet<_> = left.keys().cloned().collect();
            let before = left.len();
            left.retain(|_, used| used.iter().any(|it| names.contains(it)));
            if left.len() == before {
                break;
            }
        }
        let circle: Vec<_> = left
            .iter()
            .map(|(name, used)| {
                let used: Vec<_> = used.iter().filter(|it| left.contains_key(*it)).collect();
                format!("{name} -> {used:?}")
            })
            .collect();
        assert!(
            circle.is_empty(),
            "src/{module} has a circle among {circle:#?}"
        );
    }
}

#[test]
fn unsafe_code_is_only_where_it_is_listed() {
    for path in ["src", "ring/src", "loadtest/src", "benches", "examples"]
        .into_iter()
        .flat_map(|folder| files(folder, "rs"))
    {
        let is_listed = UNSAFE_FILES.contains(&&*path)
            || RING_UNSAFE_FILES.contains(&&*path)
            || path.starts_with("src/net/wire/fake/");
        let is_loadtest =
            path.starts_with("loadtest/src/wire") || path.starts_with("loadtest/src/");
        let has_unsafe = code(&path).lines().any(|line| {
            line.contains("unsafe {") || line.contains("unsafe fn") || line.contains("unsafe impl")
        });
        assert!(
            !has_unsafe || is_listed || is_loadtest,
            "{path} has unsafe code and is not listed"
        );
    }
    for path in UNSAFE_FILES.into_iter().chain(RING_UNSAFE_FILES) {
        assert!(
            read(path).contains("unsafe"),
            "{path} is listed for nothing"
        );
    }
}

#[test]
fn files_hold_one_concept_each() {
    let folders = [
        "src", "ring", "loadtest", "tests", "benches", "examples", "fuzz",
    ];
    for path in folders.into_iter().flat_map(|folder| files(folder, "rs")) {
        let lines = read(&path).lines().count();
        assert!(lines <= FILE_LINES_MAX, "{path} has {lines} lines");
    }
}

#[test]
fn nothing_is_declared_under_a_retired_name() {
    let marks = [
        "fn ", "struct ", "enum ", "trait ", "type ", "const ", "static ", "mod ", "let ",
        "let mut ",
    ];
    let folders = [
        "src", "ring", "loadtest", "tests", "benches", "examples", "fuzz",
    ];
    let mut wrong = String::new();
    for path in folders.into_iter().flat_map(|folder| files(folder, "rs")) {
        let text = read(&path);
        let mut declared: BTreeSet<&str> = BTreeSet::new();
        for line in text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
        {
            declared.extend(marks.iter().flat_map(|mark| words_after(line, mark)));
            // Fields and variants stand alone at the start of a line.
            let line = line.trim_start().trim_start_matches("pub ");
            let line = line.strip_prefix("pub(super) ").unwrap_or(line);
            let line = line.strip_prefix("pub(crate) ").unwrap_or(line);
            let end = line.find(|c: char| !(c.is_alphanumeric() || c == '_'));
            let (word, after) = line.split_at(end.unwrap_or(line.len()));
            if after.starts_with(": ") || after == "," || after.starts_with(" {") {
                declared.insert(word);
            }
        }
        for (old, new) in RETIRED_NAMES {
            if declared.contains(old) {
                writeln!(wrong, "{path} declares {old}: the word is {new}").unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn every_metric_is_documented_as_it_is_declared() {
    let mut table = String::from("| metric | labels | what it counts |\n| --- | --- | --- |\n");
    for (name, labels, help) in fanwire::observe::metrics::all_metrics() {
        writeln!(table, "| `{name}` | {} | {help} |", labels.join(", ")).unwrap();
    }
    let document = read("docs/METRICS.md");
    assert!(
        document.contains(&table),
        "docs/METRICS.md differs from the declarations; its table must be\n{table}"
    );
}

#[test]
fn every_setting_is_documented() {
    let document = read("docs/CONFIGURATION.md");
    for setting in fanwire::settings() {
        let name = setting.key.rsplit('.').next().unwrap();
        let is_named = document.contains(&format!("`{name}`"))
            || document.contains(&format!("`{}`", setting.key))
            || document.contains(&format!("__{}`", name.to_ascii_uppercase()));
        assert!(
            is_named,
            "docs/CONFIGURATION.md does not name {}",
            setting.key
        );
        if let Some(flag) = &setting.flag {
            assert!(!flag.contains('_'), "{flag}");
        }
    }
}

#[test]
fn every_link_of_the_documentation_resolves() {
    for path in files("", "md") {
        let text = read(&path);
        let folder = Path::new(&path).parent().unwrap().to_owned();
        for link in text.split("](").skip(1) {
            let link = link.split(')').next().unwrap();
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() {
                PathBuf::from(&path)
            } else {
                folder.join(file)
            };
            let found = root().join(&target);
            assert!(found.exists(), "{path} links to {link}, which is not there");
            if !anchor.is_empty() {
                let headings = fs::read_to_string(found).unwrap();
                let has_anchor = headings.lines().any(|line| {
                    line.starts_with('#') && slug(line.trim_start_matches('#').trim()) == anchor
                });
                assert!(
                    has_anchor,
                    "{path} links to {link}, which has no such heading"
                );
            }
        }
    }
}

/// The anchor of a heading.
fn slug(heading: &str) -> String {
    let kept = heading.chars().filter_map(|c| match c {
        ' ' | '-' => Some('-'),
        c if c.is_alphanumeric() || c == '_' => Some(c.to_ascii_lowercase()),
        _ => None,
    });
    kept.collect()
}

#[test]
fn tuning_changes_nothing_for_other_services() {
    let tuning = Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning");
    let mut values = Vec::new();
    for folder in ["fanwire.service.d", "limits.d", "loadtest"] {
        for file in fs::read_dir(tuning.join(folder)).unwrap() {
            let text = fs::read_to_string(file.unwrap().path()).unwrap();
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            values.extend(lines.map(|line| format!("{folder}: {line}")));
        }
    }
    for value in &values {
        let is_own = [
            "fanwire.service.d: [Service]",
            "fanwire.service.d: Limit",
            "limits.d: fanwire ",
        ]
        .iter()
        .any(|own| value.starts_with(own));
        let is_for_generators = value == "loadtest: net.ipv4.ip_local_port_range = 10240 65535";
        assert!(is_own || is_for_generators, "{value}");
    }
    assert_eq!(values.len(), 6, "{values:?}");
    let entries = fs::read_dir(&tuning).unwrap().count();
    assert_eq!(entries, 4, "a file or folder that this test does not know");
}
