//! The rules of one action, found by the names of channels.
//!
//! A rule whose pattern begins with a text is looked at only for channels whose names begin with
//! it: names are found by binary search, and so is the longest text that the name of a channel
//! begins with. Each of these texts knows the next shorter one, so a check costs the rules that can
//! match, and no memory.

use super::access::{AccessRule, Subject};

/// The rules of one action.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleTable {
    rules: Vec<AccessRule>,
    /// The rules about one channel, in the order of its names.
    exact: Vec<(Box<str>, Vec<usize>)>,
    /// The other rules, in the order of the texts with which their patterns begin.
    prefixes: Vec<Prefix>,
}

/// The rules whose patterns begin with the same text, up to a variable or `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Prefix {
    literal: Box<str>,
    rules: Vec<usize>,
    /// The index of the longest other text that this one begins with.
    shorter: Option<usize>,
}

impl From<Vec<AccessRule>> for RuleTable {
    fn from(rules: Vec<AccessRule>) -> Self {
        let grouped = |is_exact: bool| {
            let rules = rules.iter().enumerate();
            let rules = rules.filter(|(_, rule)| rule.channels.name().is_some() == is_exact);
            let mut groups: Vec<(Box<str>, Vec<usize>)> = Vec::new();
            for (index, rule) in rules {
                let literal = rule.channels.literal();
                match groups.binary_search_by(|(other, _)| (**other).cmp(literal)) {
                    Ok(at) => groups[at].1.push(index),
                    Err(at) => groups.insert(at, (literal.into(), vec![index])),
                }
            }
            groups
        };
        let mut prefixes: Vec<Prefix> = Vec::new();
        for (literal, rules) in grouped(false) {
            // What a text begins with stands before it.
            let mut shorter = prefixes.len().checked_sub(1);
            while let Some(at) = shorter
                && !literal.starts_with(&*prefixes[at].literal)
            {
                shorter = prefixes[at].shorter;
            }
            prefixes.push(Prefix {
                literal,
                rules,
                shorter,
            });
        }
        Self {
            exact: grouped(true),
            prefixes,
            rules,
        }
    }
}

impl RuleTable {
    /// The rules, as they were given.
    #[must_use]
    pub fn rules(&self) -> &[AccessRule] {
        &self.rules
    }

    /// The rules that match a channel, each with whether `subject` meets it: first those for its
    /// name alone, then the others, those that begin with the longest text first.
    pub fn matching<'a>(
        &'a self,
        subject: Subject<'a>,
        channel: &'a str,
    ) -> impl Iterator<Item = (&'a AccessRule, bool)> {
        let exact = self
            .exact
            .binary_search_by(|(name, _)| (**name).cmp(channel));
        let exact = exact.ok().map_or(&[][..], |at| &self.exact[at].1);
        // Of the texts up to the channel's name, the last one begins with every text that the name
        // begins with, or is one of them.
        let last = self.prefixes.partition_point(|it| *it.literal <= *channel);
        let shorter = |at: &usize| self.prefixes[*at].shorter;
        let prefixes = std::iter::successors(last.checked_sub(1), shorter);
        let prefixes = prefixes.map(|at| &self.prefixes[at]);
        let prefixes = prefixes.filter(|prefix| channel.starts_with(&*prefix.literal));
        let candidates = exact
            .iter()
            .chain(prefixes.flat_map(|prefix| &prefix.rules));
        candidates.filter_map(move |index| {
            let rule = &self.rules[*index];
            Some((rule, rule.is_met(subject, channel)?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rules: &[&str]) -> RuleTable {
        let rules = rules.iter().map(|rule| AccessRule::parse(rule).unwrap());
        rules.collect::<Vec<_>>().into()
    }

    /// The rules that match, in the order in which they are found.
    fn check(rules: &[&str], channel: &str, expected: &[&str]) {
        let table = table(rules);
        let found = table.matching(Subject::default(), channel);
        let found: Vec<_> = found.map(|(rule, _)| rule.to_string()).collect();
        assert_eq!(found, expected, "{channel}");
    }

    #[test]
    fn the_rules_that_match_are_found_and_no_others() {
        let rules = [
            "* nobody",
            "a* role=1",
            "a role=2",
            "ab* role=3",
            "abc role=4",
            "abd* role=5",
            "{user} authenticated",
            "ab* role=6",
        ];
        check(
            &rules,
            "abc",
            &[
                "abc role=4",
                "ab* role=3",
                "ab* role=6",
                "a* role=1",
                "* nobody",
                "{user} authenticated",
            ],
        );
        check(
            &rules,
            "a",
            &["a role=2", "a* role=1", "* nobody", "{user} authenticated"],
        );
        check(&rules, "b", &["* nobody", "{user} authenticated"]);
        check(&rules[1..6], "b", &[]);
        check(&[], "b", &[]);
    }

    #[test]
    fn the_table_finds_what_reading_every_rule_finds() {
        // Names over a small alphabet, so that many begin with others.
        let names: Vec<String> = (0..3_000_u32)
            .map(|number| {
                let digits = format!("{:o}", number.wrapping_mul(2_654_435_761) >> (number % 23));
                digits.replace(['3', '4', '5', '6', '7'], "1")
            })
            .collect();
        let rules = names[..400].iter().enumerate();
        let rules = rules.map(|(index, name)| match index % 3 {
            0 => format!("{name} role=r"),
            1 => format!("{name}* role=r"),
            _ => format!("{name}{{user}} role=r"),
        });
        let rules: Vec<_> = rules
            .map(|rule| AccessRule::parse(&rule).unwrap())
            .collect();
        let table = RuleTable::from(rules.clone());
        let subject = Subject::default();
        for channel in &names {
            let key = |rule: &AccessRule| rule.to_string();
            let found = table.matching(subject, channel);
            let mut found: Vec<_> = found.map(|(rule, _)| key(rule)).collect();
            let all = rules.iter();
            let all = all.filter(|rule| rule.is_met(subject, channel).is_some());
            let mut expected: Vec<_> = all.map(key).collect();
            found.sort();
            expected.sort();
            assert_eq!(found, expected, "{channel}");
        }
    }
}
