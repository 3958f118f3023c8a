//! Who is on a channel, as the embedding program sees it.

use crate::harness::{Raw, token};
use crate::library::{Embedded, builder};
use fanwire::{Server, block_on};

/// Waits until a channel has so many users and sessions, and returns who they are.
fn wait_for(server: &Server, channel: &str, users: u64, sessions: u64) -> Vec<(String, u32)> {
    for _ in 0..2_000_000 {
        let presence = server.presence(channel, None, 10).unwrap();
        if (presence.users, presence.sessions) == (users, sessions) {
            let members = presence.members.into_iter();
            return members.map(|it| (it.user, it.sessions)).collect();
        }
        std::thread::yield_now();
    }
    panic!("{:?}", server.presence(channel, None, 10));
}

#[test]
fn the_program_sees_who_is_on_a_channel_whatever_ends_their_sessions() {
    let settings = builder().set("presence", vec!["news members", "room:* events"]);
    let program = Embedded::of(settings);
    let server = &program.server;
    let connect = |user: &str, channel: &str| {
        let path = format!("/ws?token={}", token(user, &[]));
        let mut client = Raw::open(server.addresses()[0], &path, "");
        client.send(&format!(
            r#"{{"type":"subscribe","data":{{"channel":"{channel}"}}}}"#
        ));
        client
    };
    assert!(
        server.presence("other", None, 10).is_none(),
        "it is not kept"
    );
    let ann = connect("ann", "news");
    let twin = connect("ann", "news");
    let bob = connect("bob", "news");
    let expected = [("ann".to_owned(), 2), ("bob".to_owned(), 1)];
    assert_eq!(wait_for(server, "news", 2, 3), expected);
    let first = server.presence("news", None, 1).unwrap();
    assert_eq!((first.members.len(), first.is_complete), (1, false));
    let second = server.presence("news", Some("ann"), 1).unwrap();
    assert_eq!(
        (second.members[0].user.as_str(), second.is_complete),
        ("bob", true)
    );
    // Another tenant has channels of its own.
    let of_tenant = server.in_tenant("acme").presence("news", None, 10).unwrap();
    assert_eq!((of_tenant.users, of_tenant.sessions), (0, 0));
    // One vanishes, one is revoked.
    drop(twin);
    wait_for(server, "news", 2, 2);
    assert_eq!(block_on(server.revoke_user("ann")), 1);
    assert_eq!(wait_for(server, "news", 1, 1), [("bob".to_owned(), 1)]);
    drop((ann, bob));
    wait_for(server, "news", 0, 0);
}
