//! What does it cost to find the filters that match a publication, checked already and not?

use criterion::{Criterion, criterion_group, criterion_main};
use fanwire::broker::filters::{Filter, FilterId, FilterIndex};
use fanwire::json::{Document, JsonReader, check};
use std::hint::black_box;

/// Events in turn, so that caches and branches do not learn one of them.
const EVENTS: u32 = 1_000;

/// An event of some 300 bytes, as the analytics document shows them.
fn event(number: u32) -> String {
    let (id, source) = (number * 10, number % 10);
    format!(
        r#"{{"event_id":"6b0f3f0e-6a52-4bd5-9d0e-7d3b1f8f6c11","event_type":"user_action","timestamp":"2024-01-15T10:30:00.000Z","user_id":"user{id}","source":"web{source}","payload":{{"action":"click","element":"checkout-button","page":"/cart","duration":1.25,"user":{{"id":{id},"plan":"pro"}}}},"p{id}":1,"tags":["a","b"]}}"#
    )
}

fn index(filters: u32, text: impl Fn(u32) -> String) -> FilterIndex {
    let mut index = FilterIndex::default();
    let mut reader = JsonReader::default();
    for number in 0..filters {
        let filter = Filter::parse(&text(number), &mut reader).expect("the filter is small");
        index.insert(filter.expect("the filter has keys"));
    }
    index
}

fn filters(criterion: &mut Criterion) {
    type Text = fn(u32) -> String;
    let cases: [(&str, u32, Text); 4] = [
        ("10000_values_of_one_path", 10_000, |number| {
            format!(r#"{{"user_id":"user{number}"}}"#)
        }),
        ("10000_of_two_keys_one_shared", 10_000, |number| {
            format!(r#"{{"event_type":"user_action","payload.user.id":{number}}}"#)
        }),
        ("10000_paths", 10_000, |number| {
            format!(r#"{{"p{number}":1}}"#)
        }),
        ("10_filters", 10, |number| {
            format!(r#"{{"event_type":["user_action","login"],"source":"web{number}"}}"#)
        }),
    ];
    let events: Vec<_> = (0..EVENTS).map(event).collect();
    for (name, count, text) in cases {
        let mut index = index(count, text);
        let mut matched = Vec::new();
        let mut reader = JsonReader::default();
        let mut group = criterion.benchmark_group(name);
        for (name, is_checked) in [("with_check", true), ("without_check", false)] {
            group.bench_function(name, |bencher| {
                let mut turn = events.iter().cycle();
                bencher.iter(|| {
                    let event = turn.next().expect("a cycle has no end");
                    if is_checked {
                        check(event).expect("the event is JSON");
                    }
                    match_one(&mut index, event, &mut reader, &mut matched);
                });
            });
        }
        group.finish();
    }
}

fn match_one(
    index: &mut FilterIndex,
    event: &str,
    reader: &mut JsonReader,
    matched: &mut Vec<FilterId>,
) {
    matched.clear();
    let document = Document::new(event);
    let object = document.object().expect("the event is an object");
    black_box(index.matches(&object, reader, matched));
    assert_eq!(matched.len(), 1, "each case has one match for each event");
}

criterion_group!(benches, filters);
criterion_main!(benches);
