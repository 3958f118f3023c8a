//! The history of channels, as the embedding program sees it.

use crate::library::{Embedded, builder};

#[test]
fn what_a_user_received_on_the_own_channel_is_deleted_with_the_history_of_the_user() {
    let program = Embedded::of(builder().set("history", vec!["user:* messages=9"]));
    let server = &program.server;
    let acme = server.in_tenant("acme");
    for (server, user) in [(server, "ann"), (&acme, "ann"), (server, "bob")] {
        server.broadcast_to_user(user, "m", &user).unwrap();
    }
    let count = |user: &str| {
        let history = server.history(&format!("user:{user}"), None, 10);
        history.unwrap().entries.len()
    };
    assert_eq!((count("ann"), count("bob")), (2, 1));
    acme.delete_user_history("ann");
    assert_eq!((count("ann"), count("bob")), (1, 1));
    server.delete_user_history("ann");
    assert_eq!((count("ann"), count("bob")), (0, 1));
}

#[test]
fn the_program_reads_and_deletes_histories() {
    let program = Embedded::of(builder().set("history", vec!["news* messages=3"]));
    let server = &program.server;
    assert_eq!(server.history("other", None, 10), None, "it has none");
    for number in 0..4 {
        server.broadcast("news", "m", &number).unwrap();
    }
    let data = |history: &fanwire::ChannelHistory| {
        let entries = history.entries.iter();
        entries.map(|entry| entry.data.clone()).collect::<Vec<_>>()
    };
    let newest = server.history("news", None, 10).unwrap();
    let next = fanwire::Publication::new("news-1", "m", &1).unwrap();
    let published = server.try_publish(&next).unwrap();
    let kept = server.history("news-1", None, 1).unwrap();
    assert_eq!(
        published.position.as_deref(),
        Some(&*kept.entries[0].position)
    );
    let unkept = fanwire::Publication::new("other", "m", &1).unwrap();
    assert_eq!(server.try_publish(&unkept).unwrap().position, None);
    assert_eq!(
        (data(&newest), newest.is_complete),
        (vec!["1".into(), "2".into(), "3".into()], true)
    );
    let first = newest.entries[0].position.as_str();
    let next = server.history("news", Some(first), 1).unwrap();
    assert_eq!((data(&next), next.is_complete), (vec!["2".into()], false));
    assert_eq!(next.position, next.entries[0].position);
    let rest = server.history("news", Some(&next.position), 10).unwrap();
    assert_eq!((data(&rest), rest.is_complete), (vec!["3".into()], true));
    assert_eq!(server.history("news", Some("soon"), 1), None);
    // The channels of a tenant have histories of their own.
    let tenant = server.in_tenant("acme");
    assert_eq!(tenant.history("news", None, 10).unwrap().entries, []);
    for (server, user) in [(server, "ann"), (server, "bob"), (&tenant, "ann")] {
        let target = fanwire::BroadcastTarget::User(user);
        server.broadcast_to("news-2", target, "m", &user).unwrap();
    }
    server.delete_user_history("ann");
    assert_eq!(
        data(&server.history("news-2", None, 10).unwrap()),
        ["\"bob\""]
    );
    assert_eq!(
        data(&tenant.history("news-2", None, 10).unwrap()),
        ["\"ann\""]
    );
    tenant.delete_user_history("ann");
    assert!(
        tenant
            .history("news-2", None, 10)
            .unwrap()
            .entries
            .is_empty()
    );
    server.delete_history("news");
    let after = server.history("news", Some(first), 10).unwrap();
    assert_eq!(
        (data(&after).len(), after.is_complete),
        (0, false),
        "it is told so"
    );
}
