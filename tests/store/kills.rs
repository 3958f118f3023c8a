//! Processes that are killed while they write.

use crate::child;
use crate::harness::{Directory, Random, content, open};
use fanwire::store::SyncPolicy;
use std::io::{BufRead as _, BufReader, Read as _};
use std::thread;
use std::time::Duration;

const ROUNDS: u64 = 200;
/// Rounds in one directory: each goes on where the one before was killed.
const ROUNDS_PER_DIRECTORY: u64 = 10;
const SEED: u64 = 11;

#[test]
fn what_was_acknowledged_survives_kills() {
    let mut random = Random::new(SEED);
    let mut acknowledged_total = 0;
    let mut tails = 0;
    let mut directory = Directory::new("kill");
    for run in 1..=ROUNDS {
        if run % ROUNDS_PER_DIRECTORY == 0 {
            directory = Directory::new("kill");
        }
        let acknowledged_min = random.below(40);
        let pause = Duration::from_micros(random.next() % 2_000);
        let mut child = child::spawn("writes_until_killed", &[], &directory, run);
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut lines = String::new();
        while lines.lines().filter(|it| it.starts_with("ack ")).count() < acknowledged_min
            || !lines.contains("begun\n")
        {
            assert_ne!(output.read_line(&mut lines).unwrap(), 0, "round {run}");
        }
        thread::sleep(pause);
        // SIGKILL.
        child.kill().unwrap();
        child.wait().unwrap();
        output.read_to_string(&mut lines).unwrap();

        let config = directory.config(SyncPolicy::Always);
        let (_store, scan, records) = open(&config);
        assert!(
            scan.damages.is_empty(),
            "seed {SEED}, round {run}: {scan:?}"
        );
        assert!(!scan.was_closed || records.is_empty());
        tails += u64::from(scan.torn_tail.is_some());
        // The last line may be cut.
        let whole = lines.rsplit_once('\n').map_or("", |it| it.0);
        for numbers in whole.lines().filter_map(|line| line.strip_prefix("ack ")) {
            let (index, sequence) = numbers.split_once(' ').unwrap();
            let expected = content(run, index.parse().unwrap(), 3_000);
            let found = records.get(&sequence.parse().unwrap());
            assert_eq!(
                found,
                Some(&expected),
                "seed {SEED}, round {run}: record {sequence} was acknowledged"
            );
            acknowledged_total += 1;
        }
    }
    assert!(acknowledged_total > 10 * ROUNDS, "{acknowledged_total}");
    println!("{ROUNDS} kills, {acknowledged_total} acknowledged, {tails} torn tails");
}
