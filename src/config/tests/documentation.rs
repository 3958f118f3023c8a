//! Compares the tables of settings in the documentation with the declarations.

use crate::config::{SettingInfo, all_settings};
use std::collections::BTreeSet;

const CONFIGURATION: &str = include_str!("../../../docs/CONFIGURATION.md");
/// The table of settings that belongs to no dialect.
const INGEST: &str = "ingest.";
const README: &str = include_str!("../../../README.md");

/// The cells of the table whose first column is called `setting`, in the section of that heading;
/// the header comes first.
fn table<'a>(document: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let (_, section) = document.split_once(heading).expect("the heading is there");
    let lines = section
        .lines()
        .skip_while(|line| !line.starts_with("| setting |"));
    let lines = lines.take_while(|line| line.starts_with('|'));
    let rows = lines.filter(|line| !line.starts_with("| ---"));
    rows.map(|row| {
        let cells = row.trim_matches('|').split('|');
        cells.map(str::trim).collect()
    })
    .collect()
}

/// A default as the tables show it.
fn default(setting: &SettingInfo) -> String {
    let Some(toml) = &setting.default else {
        return "none".to_owned();
    };
    match toml
        .strip_prefix('{')
        .and_then(|toml| toml.strip_suffix('}'))
    {
        Some(parts) => parts.trim().replace('"', ""),
        None if toml.starts_with('"') => toml.trim_matches('"').to_owned(),
        None => toml.clone(),
    }
}

/// The names in a table of process settings, after comparing each row with its declaration.
fn check_process_table(document: &'static str, heading: &str) -> BTreeSet<&'static str> {
    let rows = table(document, heading);
    assert_eq!(rows[0][1..3], ["default", "flag"]);
    let names = rows[1..].iter().map(|row| {
        let name = row[0].trim_matches('`');
        let setting = all_settings().iter().find(|setting| setting.key == name);
        let setting = setting.unwrap_or_else(|| panic!("`{name}` is not a setting"));
        match setting.default {
            Some(_) => assert_eq!(row[1], format!("`{}`", default(setting)), "`{name}`"),
            // The default depends on the profile and the mode, so it is described in words.
            None => assert!(!row[1].is_empty() && !row[1].contains('`'), "`{name}`"),
        }
        let flag = setting.flag.as_ref().map(|flag| format!("`--{flag}`"));
        assert_eq!(row[2], flag.unwrap_or_default(), "`{name}`");
        name
    });
    names.collect()
}

#[test]
fn the_process_table_has_every_setting_with_its_default_and_flag() {
    let mut documented = check_process_table(CONFIGURATION, "## Settings of the process");
    documented.extend(check_process_table(CONFIGURATION, "## Settings of tokens"));
    let heading = "## Settings of webhooks and callbacks";
    documented.extend(check_process_table(CONFIGURATION, heading));
    documented.extend(check_process_table(
        CONFIGURATION,
        "## Settings of shared memory",
    ));
    documented.extend(check_process_table(
        CONFIGURATION,
        "## Settings of several nodes",
    ));
    let keys = all_settings().iter().map(|setting| &*setting.key);
    let of_process = |key: &&str| !key.contains('.') || key.starts_with(INGEST);
    let declared: BTreeSet<_> = keys.filter(of_process).collect();
    assert_eq!(documented, declared);
}

#[test]
fn the_readme_shows_defaults_and_flags_as_they_are() {
    let documented = check_process_table(README, "## Configuration");
    assert!(!documented.is_empty());
}

#[test]
fn the_dialect_table_has_every_setting_of_every_dialect_with_its_default() {
    let rows = table(CONFIGURATION, "## Settings of a dialect");
    let mut documented = BTreeSet::new();
    for row in &rows[1..] {
        let name = row[0].trim_matches('`');
        let dialects = rows[0].iter().zip(row).skip(1);
        for (dialect, cell) in dialects.take_while(|(dialect, _)| !dialect.contains(' ')) {
            if !cell.is_empty() {
                documented.insert((format!("{dialect}.{name}"), (*cell).to_owned()));
            }
        }
    }
    // The parts of a rate limit have no default of their own.
    let settings = all_settings().iter();
    let settings = settings.filter(|setting| setting.key.matches('.').count() == 1);
    let settings = settings.filter(|setting| !setting.key.starts_with(INGEST));
    let declared: BTreeSet<_> = settings
        .map(|setting| (setting.key.clone(), default(setting)))
        .collect();
    assert_eq!(documented, declared);
}
