//! Both directions against a client of rustls: what it sends is decrypted without rustls, and what is sent
//! to it is encrypted as the kernel does.

use super::*;
use crate::net::tls::fixtures::{
    KernelEncryptor, SUITES, below, client, client_in_fragments, is_1_3, server_config,
};
use crate::net::tls::{KernelOffer, TlsStream};
use rustls::{ClientConnection, ServerConfig};
use std::io::{Read as _, Write as _};
use std::sync::Arc;

const DATA: u8 = 23;

/// What a client has to send.
fn output(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// What a client reads in records.
fn input(client: &mut ClientConnection, mut records: &[u8]) -> Result<Vec<u8>, rustls::Error> {
    let mut plaintext = Vec::new();
    while !records.is_empty() {
        client.read_tls(&mut records).unwrap();
        client.process_new_packets()?;
        // Would block: there is no more.
        let _ = client.reader().read_to_end(&mut plaintext);
    }
    Ok(plaintext)
}

/// Records one after the other: a `process` may not see two.
fn cut(bytes: &[u8], seed: &mut u64) -> Vec<Vec<u8>> {
    let mut rest = bytes;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let (piece, later) = rest.split_at(1 + below(seed, rest.len().min(900)));
        pieces.push(piece.to_vec());
        rest = later;
    }
    pieces
}

/// A connection after the handshake, in which the client has sent `early` together with its last message;
/// the keys are given to the kernel.
fn pair(
    config: &Arc<ServerConfig>,
    suite: CipherSuite,
    early: &[u8],
    seed: &mut u64,
) -> (ClientConnection, KernelStream, KernelEncryptor) {
    let fragment = (!early.is_empty() && below(seed, 2) == 0).then(|| 32 + below(seed, 100));
    let mut client = client_in_fragments(&[suite], fragment);
    let mut server = TlsStream::new(Arc::clone(config)).unwrap();
    server.kernel = KernelOffer::Pending;
    let mut plaintext = Vec::new();
    loop {
        let is_last = !client.is_handshaking();
        let mut sent = output(&mut client);
        if is_last {
            // Records of any size, whole ones right behind the handshake among them.
            for part in early.chunks(1 + below(seed, 9_000)) {
                client.writer().write_all(part).unwrap();
            }
            sent.extend(output(&mut client));
        }
        let is_whole = below(seed, 2) == 0;
        let pieces = if is_whole {
            vec![sent]
        } else {
            cut(&sent, seed)
        };
        for mut piece in pieces {
            assert!(!server.process(&mut piece, &mut plaintext).unwrap());
        }
        while server.has_output() {
            assert!(!server.may_leave_to_kernel(), "not before all is sent");
            let records = server.begin_send().to_vec();
            input(&mut client, &records).unwrap();
            server.sent(records.len());
        }
        if is_last {
            break;
        }
    }
    assert!(
        plaintext.is_empty(),
        "rustls has seen what follows the handshake"
    );
    assert!(server.is_waiting_for_kernel() && !server.may_leave_to_kernel());
    assert!(!server.takes_plaintext());
    server.kernel = KernelOffer::Accepted;
    assert!(server.may_leave_to_kernel());
    assert_eq!(server.suite(), Some(suite));
    let (mut stream, keys) = server.into_kernel().unwrap();
    assert_eq!(stream.suite(), suite);
    assert!(
        !stream.takes_plaintext(),
        "the kernel has yet to take the keys"
    );
    let encryptor = KernelEncryptor::new(&keys);
    stream.sending = Sending::Open;
    stream.is_attached = true;
    (client, stream, encryptor)
}

/// Gives the server what the client has to send, cut anywhere.
fn receive(
    stream: &mut KernelStream,
    sent: &[u8],
    seed: &mut u64,
) -> Result<(Vec<u8>, Events), TlsError> {
    let (mut plaintext, mut all) = (Vec::new(), Events::default());
    for mut piece in cut(sent, seed) {
        let events = stream.process(&mut piece, &mut plaintext)?;
        all.has_ended |= events.has_ended;
        all.wants_key_update |= events.wants_key_update;
    }
    Ok((plaintext, all))
}

fn data(length: usize) -> Vec<u8> {
    (0..=250).cycle().take(length).collect()
}

#[test]
fn bytes_arrive_as_they_were_sent_however_they_are_cut() {
    let config = server_config(true);
    for round in 1..90_u64 {
        let mut seed = round;
        let suite = SUITES[usize::try_from(round).unwrap() % SUITES.len()];
        let early = data(below(&mut seed, 40_000));
        let (mut client, mut stream, mut encryptor) = pair(&config, suite, &early, &mut seed);
        let mut plaintext = Vec::new();
        stream.process(&mut [], &mut plaintext).unwrap();
        assert!(plaintext == early, "{suite:?}, round {round}");
        for part in 0..4 {
            let said = data(below(&mut seed, 50_000));
            if part % 2 == 1 && is_1_3(suite) {
                client.refresh_traffic_keys().unwrap();
            }
            client.writer().write_all(&said).unwrap();
            let sent = output(&mut client);
            let (plaintext, events) = receive(&mut stream, &sent, &mut seed).unwrap();
            assert!(plaintext == said, "{suite:?}, round {round}");
            assert!(!events.has_ended);
            assert_eq!(events.wants_key_update, part % 2 == 1 && is_1_3(suite));
            if events.wants_key_update {
                let control = Control::KeyUpdate;
                let record = encryptor.record(control.record_type(), control.bytes());
                input(&mut client, &record).unwrap();
                encryptor = KernelEncryptor::new(&stream.next_keys().unwrap());
            }
            let answer = data(below(&mut seed, 16_384));
            let record = encryptor.record(DATA, &answer);
            assert!(input(&mut client, &record).unwrap() == answer, "{suite:?}");
        }
        assert_eq!(
            stream.reader.memory_bytes(),
            0,
            "an idle connection has no buffer"
        );
        client.send_close_notify();
        let sent = output(&mut client);
        let (plaintext, events) = receive(&mut stream, &sent, &mut seed).unwrap();
        assert!(plaintext.is_empty() && events.has_ended);
        let record = encryptor.record(
            Control::CloseNotify.record_type(),
            Control::CloseNotify.bytes(),
        );
        client.read_tls(&mut &record[..]).unwrap();
        assert!(client.process_new_packets().unwrap().peer_has_closed());
    }
}

#[test]
fn no_nonce_comes_twice_with_one_key() {
    let config = server_config(true);
    for suite in &SUITES[3..5] {
        let (mut client, mut server) = (
            client(&[*suite]),
            TlsStream::new(Arc::clone(&config)).unwrap(),
        );
        server.kernel = KernelOffer::Accepted;
        let mut records = Vec::new();
        while !server.may_leave_to_kernel() {
            server
                .process(&mut output(&mut client), &mut Vec::new())
                .unwrap();
            let sent = server.begin_send().to_vec();
            input(&mut client, &sent).unwrap();
            server.sent(sent.len());
            records.extend(sent);
        }
        // The last record of rustls is the encrypted `Finished`: its nonce follows the header.
        let finished = &records[records.len() - 45..];
        assert_eq!(finished[..5], [22, 3, 3, 0, 40], "{finished:?}");
        let (_, keys) = server.into_kernel().unwrap();
        let mut encryptor = KernelEncryptor::new(&keys);
        for _ in 0..1_000 {
            let record = encryptor.record(DATA, b"data");
            assert_ne!(record[5..13], finished[5..13], "{suite:?}");
        }
    }
}

#[test]
fn damaged_records_are_an_error_with_an_alert_and_never_a_panic() {
    let config = server_config(true);
    let mut errors = 0;
    for round in 1..400_u64 {
        let mut seed = round;
        let suite = SUITES[usize::try_from(round).unwrap() % SUITES.len()];
        let (mut client, mut stream, _) = pair(&config, suite, b"", &mut seed);
        client.writer().write_all(&data(3_000)).unwrap();
        let mut sent = output(&mut client);
        let at = below(&mut seed, sent.len());
        sent[at] ^= 1 << below(&mut seed, 8);
        match receive(&mut stream, &sent, &mut seed) {
            Err(TlsError::Record(alert)) => {
                errors += 1;
                // What is wrong with a header may be seen before the record is decrypted.
                assert!(at < 5 || alert == Alert::BadRecordMac, "{at}: {alert:?}");
                assert!(stream.has_failed);
            }
            Err(error) => panic!("{error}"),
            // A longer length waits for more.
            Ok((plaintext, _)) => assert!(plaintext.is_empty() && (3..5).contains(&at), "{at}"),
        }
        // Whatever has happened, it may be asked to go on.
        let mut plaintext = Vec::new();
        let _ = stream.process(&mut [23; 40_000], &mut plaintext);
        assert!(plaintext.is_empty());
    }
    assert!(errors > 300, "{errors}");
}

/// What a server makes of records with the client's own keys, cut anywhere.
fn forged(
    suite: CipherSuite,
    records: &[(u8, &[u8])],
    mut seed: u64,
) -> Result<(Vec<u8>, Events), TlsError> {
    let config = server_config(true);
    let mut client = client(&[suite]);
    let mut server = TlsStream::new(config).unwrap();
    server.kernel = KernelOffer::Accepted;
    while !server.may_leave_to_kernel() {
        server
            .process(&mut output(&mut client), &mut Vec::new())
            .unwrap();
        let sent = server.begin_send().to_vec();
        input(&mut client, &sent).unwrap();
        server.sent(sent.len());
    }
    let extracted = server.into_secrets();
    let version = extracted.1.protocol_version();
    let mut encryptor = KernelEncryptor::new(&SendKeys::new(version, &extracted.0.rx).unwrap());
    let (mut stream, _) = KernelStream::new(&extracted.0, extracted.1, Vec::new()).unwrap();
    stream.is_attached = true;
    let records = records
        .iter()
        .flat_map(|(kind, content)| encryptor.record(*kind, content));
    let records: Vec<u8> = records.collect();
    receive(&mut stream, &records, &mut seed)
}

#[test]
fn each_kind_of_record_has_its_answer() {
    let new_keys: &[u8] = &[24, 0, 0, 1, 0];
    let [new, old] = [SUITES[0], SUITES[3]];
    let check = |suite, records: &[(u8, &[u8])], expected: Result<(&str, bool), &str>| {
        let found = forged(suite, records, 1);
        let found = found
            .map(|(plaintext, events)| (String::from_utf8(plaintext).unwrap(), events.has_ended));
        let found = found.map_err(|error| error.to_string());
        let found = found.as_ref().map(|(text, ended)| (&**text, *ended));
        assert_eq!(
            found.map_err(String::as_str),
            expected,
            "{suite:?} {records:?}"
        );
    };
    for suite in [new, old] {
        check(
            suite,
            &[(23, b"a"), (23, b""), (23, b"b")],
            Ok(("ab", false)),
        );
        check(
            suite,
            &[(23, b"a"), (21, &[1, 0]), (23, b"b")],
            Ok(("a", true)),
        );
        check(suite, &[(21, &[1])], Err("a wrong record: DecodeError"));
        check(
            suite,
            &[(21, &[1, 0, 1])],
            Err("a wrong record: DecodeError"),
        );
        check(suite, &[(21, &[2, 20])], Err("the peer has sent alert 20"));
        check(suite, &[(21, &[1, 90]), (23, b"a")], Ok(("a", false)));
        check(
            suite,
            &[(21, &[1, 90][..]); 5],
            Err("the peer has sent alert 90"),
        );
        check(
            suite,
            &[(20, &[1])],
            Err("a wrong record: UnexpectedMessage"),
        );
        check(
            suite,
            &[(22, b"")],
            Err("a wrong record: UnexpectedMessage"),
        );
        check(
            suite,
            &[(22, &[1, 0, 0])],
            Err("a wrong record: UnexpectedMessage"),
        );
        check(
            suite,
            &[(24, b"a")],
            Err("a wrong record: UnexpectedMessage"),
        );
        check(
            suite,
            &[(23, &[b'x'; 16_385])],
            Err("a wrong record: RecordOverflow"),
        );
    }
    // A hello for new keys, in TLS 1.2.
    check(
        old,
        &[(22, new_keys)],
        Err("a wrong record: UnexpectedMessage"),
    );
    check(
        new,
        &[(22, &[24, 0, 0, 1, 2])],
        Err("a wrong record: IllegalParameter"),
    );
    check(
        new,
        &[(22, &[24, 0, 0, 2])],
        Err("a wrong record: DecodeError"),
    );
    check(
        new,
        &[(22, &[24, 0, 0, 1, 0, 0])],
        Err("a wrong record: UnexpectedMessage"),
    );
    check(
        new,
        &[(22, &[24, 0]), (23, b"a")],
        Err("a wrong record: UnexpectedMessage"),
    );
    check(
        new,
        &[(22, &[24, 0]), (22, &[0, 1]), (22, &[0])],
        Ok(("", false)),
    );
    // The next record is not with the new keys.
    check(
        new,
        &[(22, new_keys), (23, b"a")],
        Err("a wrong record: BadRecordMac"),
    );
    // No type: only padding.
    check(
        new,
        &[(0, &[0, 0])],
        Err("a wrong record: UnexpectedMessage"),
    );
    check(new, &[(0, &[b'a', 23, 0, 0, 0])], Ok(("a", false)));
}

#[test]
fn records_of_any_kind_have_the_same_result_however_they_are_cut() {
    let (mut ends, mut errors) = (0, 0);
    for round in 1..300_u64 {
        let mut seed = round;
        let suite = SUITES[below(&mut seed, SUITES.len())];
        let records: Vec<(u8, Vec<u8>)> = (0..below(&mut seed, 12))
            .map(|_| {
                let kind = [23, 23, 23, 23, 23, 23, 21, 22, 0, 20, 24][below(&mut seed, 11)];
                let bytes = match kind {
                    23 => data(below(&mut seed, 3_000)),
                    21 => vec![
                        [1, 2][below(&mut seed, 2)],
                        [0, 0, 90, 20][below(&mut seed, 4)],
                    ],
                    22 => [24, 0, 0, 1, 1][..below(&mut seed, 6)].to_vec(),
                    _ => data(below(&mut seed, 40)),
                };
                (kind, bytes)
            })
            .collect();
        let records: Vec<_> = records.iter().map(|(kind, it)| (*kind, &it[..])).collect();
        let found = forged(suite, &records, seed).map_err(|error| error.to_string());
        let again = forged(suite, &records, seed ^ 0xff).map_err(|error| error.to_string());
        assert_eq!(found, again, "round {round}, {suite:?}");
        errors += u32::from(found.is_err());
        ends += u32::from(found.is_ok_and(|(_, events)| events.has_ended));
    }
    assert!(errors > 50 && ends > 10, "{errors} errors, {ends} ends");
}

#[test]
fn keys_may_not_change_for_ever_without_data() {
    let config = server_config(true);
    let mut seed = 7;
    let (mut client, mut stream, _) = pair(&config, SUITES[0], b"", &mut seed);
    for count in 0..40 {
        client.refresh_traffic_keys().unwrap();
        let sent = output(&mut client);
        let result = receive(&mut stream, &sent, &mut seed);
        assert_eq!(result.is_ok(), count < 32, "{count}");
        if count >= 32 {
            break;
        }
    }
}

#[test]
fn a_key_of_gcm_is_used_for_so_many_blocks_only() {
    let config = server_config(true);
    let (_, mut stream, _) = pair(&config, SUITES[0], b"", &mut 3);
    let sends = BLOCKS_PER_KEY / (u64::from(u32::MAX) / 16);
    for _ in 1..sends - 1 {
        assert!(!stream.count_sent(u32::MAX));
    }
    assert!((0..3).any(|_| stream.count_sent(u32::MAX)));
    stream.queue(Control::KeyUpdate);
    assert!(!stream.count_sent(1), "it is queued already");
    stream.next_keys().unwrap();
    stream.control = None;
    assert!(!stream.count_sent(u32::MAX), "another key");
}

#[test]
fn what_waits_for_the_kernel_has_a_limit() {
    let config = server_config(true);
    let (_, mut stream, _) = pair(&config, SUITES[0], b"", &mut 5);
    stream.is_attached = false;
    let mut plaintext = Vec::new();
    for _ in 0..20 {
        stream.process(&mut [0; 4_096], &mut plaintext).unwrap();
    }
    let error = stream.process(&mut [0; 4_096], &mut plaintext).unwrap_err();
    assert!(matches!(error, TlsError::TooLarge), "{error}");
    assert_eq!(stream.reader.memory_bytes(), 0);
}

#[test]
fn an_alert_goes_ahead_of_all_else_and_the_end_ahead_of_new_keys() {
    let config = server_config(true);
    let (_, mut stream, _) = pair(&config, SUITES[0], b"", &mut 9);
    assert!(stream.takes_plaintext());
    stream.queue(Control::KeyUpdate);
    assert!(!stream.takes_plaintext());
    stream.queue(Control::CloseNotify);
    stream.queue(Control::KeyUpdate);
    assert_eq!(stream.control(), Some(Control::CloseNotify));
    stream.queue(Control::Alert(Alert::BadRecordMac));
    stream.notify_close();
    assert_eq!(
        stream.begin_control(),
        Some(Control::Alert(Alert::BadRecordMac))
    );
    assert_eq!(stream.begin_control(), None);
}

/// A record of TLS cut into several that carry the same message (RFC 8446 5.1).
fn fragment(record: &[u8], size: usize) -> Vec<Vec<u8>> {
    let (head, body) = record.split_at(5);
    body.chunks(size)
        .map(|part| {
            let length = u16::try_from(part.len()).unwrap().to_be_bytes();
            [&head[..3], &length, part].concat()
        })
        .collect()
}

#[test]
fn a_hello_in_several_records_is_read_with_the_kernel_and_without_it() {
    let config = server_config(true);
    for round in 1..400_u64 {
        let mut seed = round;
        let mut client = client(&[SUITES[below(&mut seed, SUITES.len())]]);
        let mut server = TlsStream::new(Arc::clone(&config)).unwrap();
        if round % 4 > 0 {
            server.kernel = KernelOffer::Pending;
        }
        let hello = output(&mut client);
        let size = 20 + below(&mut seed, 100);
        let hello = fragment(&hello, size).concat();
        let mut plaintext = Vec::new();
        let mut rest = &hello[..];
        while !rest.is_empty() {
            let (part, behind) = rest.split_at(1 + below(&mut seed, rest.len()));
            server.process(&mut part.to_vec(), &mut plaintext).unwrap();
            rest = behind;
        }
        assert!(server.has_output(), "the answer to the hello");
    }
}
