//! The list of records that the ring is compared with.

use super::{CAPACITY_BYTES, GAPS_MAX, HELD_BYTES_MAX, OBSERVERS_MAX, READERS_MAX, UNWANTED_TAG};
use fanwire_ring::{Lapped, ObserveError, ReadError, Record, WriteError};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum State {
    Open,
    Committed,
    /// Dropped, or padding.
    Aborted,
    Retired,
    /// Retired, and its writer knows.
    Returned,
}

#[derive(Debug)]
pub(super) struct OracleRecord {
    pub(super) position: u64,
    pub(super) end: u64,
    pub(super) state: State,
    pub(super) tag: u64,
    pub(super) payload: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct OracleReader {
    pub(super) start: u64,
    pub(super) position: u64,
    pub(super) parked: bool,
    /// Not in the gate.
    pub(super) out: bool,
    /// Not in the gate by its own wish.
    pub(super) away: bool,
}

#[derive(Debug)]
pub(super) struct OracleObserver {
    pub(super) start: u64,
    pub(super) position: u64,
    /// Whether the record at the position was shown.
    pub(super) is_shown: bool,
}

#[derive(Debug)]
pub(super) struct OracleGap {
    pub(super) start: u64,
    pub(super) bytes: u64,
    pub(super) until: Option<u64>,
    /// Everybody is past its end.
    pub(super) gone: bool,
}

impl OracleGap {
    pub(super) fn begins_at(&self, position: u64) -> bool {
        position >= self.start
            && (position - self.start).is_multiple_of(u64::from(CAPACITY_BYTES))
            && self.until.is_none_or(|until| position < until)
    }
}

/// Bytes from the start of a record to the start of the next.
pub(super) fn span(payload_bytes: u64) -> u64 {
    (24 + payload_bytes).div_ceil(32) * 32
}

/// Every record ever written, never forgotten.
#[derive(Debug)]
pub(super) struct Oracle {
    pub(super) tail: u64,
    pub(super) limit: u64,
    /// In the order of their positions.
    pub(super) records: Vec<OracleRecord>,
    pub(super) gaps: Vec<OracleGap>,
    /// At the last look but one, and at the last one.
    pub(super) tails: [u64; 2],
    pub(super) rejected: Option<u64>,
    pub(super) rejected_total: u64,
    pub(super) readers: [Option<OracleReader>; READERS_MAX as usize],
    pub(super) observers: [Option<OracleObserver>; OBSERVERS_MAX],
    pub(super) aborted_total: u64,
    /// The latest position that a reader, the sweeper or the retirer has published.
    pub(super) newest: u64,
}

impl Oracle {
    /// The bytes of the gap that begins at a position.
    pub(super) fn gap_at(&self, position: u64) -> Option<u64> {
        let gap = self.gaps.iter().find(|gap| gap.begins_at(position));
        gap.map(|gap| gap.bytes)
    }

    /// Where a record at this position must end.
    pub(super) fn room_end(&self, position: u64) -> u64 {
        let is_border = |granule: &u64| {
            granule.is_multiple_of(u64::from(CAPACITY_BYTES)) || self.gap_at(*granule).is_some()
        };
        let mut granules = (position + 32..).step_by(32);
        granules.find(is_border).expect("a lap ends")
    }

    /// The record that begins at a position.
    pub(super) fn record_at(&self, position: u64) -> Option<usize> {
        let found = self
            .records
            .binary_search_by_key(&position, |it| it.position);
        found.ok()
    }

    /// Ends a grant; false if it is retired.
    pub(super) fn end(&mut self, position: u64, state: State) -> bool {
        let record = self.record_at(position).expect("it was claimed");
        let was = &mut self.records[record].state;
        let is_retired = *was == State::Retired;
        *was = if is_retired { State::Returned } else { state };
        !is_retired
    }

    /// Commits the beginning of a claim; the rest becomes padding. False if it is retired.
    pub(super) fn shorten(&mut self, position: u64, payload_bytes: usize) -> bool {
        if !self.end(position, State::Committed) {
            return false;
        }
        let index = self.record_at(position).expect("it was claimed");
        let record = &mut self.records[index];
        record.payload.truncate(payload_bytes);
        let claimed = record.end;
        record.end = position + span(payload_bytes as u64);
        if record.end < claimed {
            let padding = OracleRecord {
                position: record.end,
                end: claimed,
                state: State::Aborted,
                tag: 0,
                payload: Vec::new(),
            };
            self.records.insert(index + 1, padding);
        }
        true
    }

    /// Records before a position.
    pub(super) fn number(&self, position: u64) -> u64 {
        let before = self.records.iter().take_while(|it| it.position < position);
        before.filter(|it| it.state == State::Committed).count() as u64
    }

    pub(super) fn is_overwritten(&self, position: u64) -> bool {
        self.tail > position + u64::from(CAPACITY_BYTES)
    }

    /// Moves an observer to its next record and shows that; or to where it goes on, which is an error.
    pub(super) fn observe(&mut self, index: usize) -> Result<Option<Record>, ObserveError> {
        let before = self.limit - u64::from(CAPACITY_BYTES);
        let observer = self.observers[index].as_ref().expect("it is there");
        let (start, mut position) = (observer.start, observer.position);
        let mut shown = None;
        while position < self.tail {
            if self.is_overwritten(position) {
                return Err(self.overtaken(index, position));
            }
            let record = self.record_at(position).map(|index| &self.records[index]);
            match record.map(|it| (it, it.state)) {
                Some((_, State::Open)) => break,
                Some((record, State::Committed)) if position >= start => {
                    shown = Some(Record {
                        position,
                        number: self.number(position),
                        tag: record.tag,
                        payload_bytes: u32::try_from(record.payload.len()).unwrap(),
                    });
                    break;
                }
                Some((record, State::Committed | State::Aborted)) => position = record.end,
                Some((_, State::Retired | State::Returned)) | None => {
                    let is_known = |gap: &&OracleGap| !gap.gone && gap.begins_at(position);
                    match self.gaps.iter().find(is_known) {
                        Some(gap) => position += gap.bytes,
                        // All readers are behind the gap, and nobody knows how long it was.
                        None => {
                            assert!(position < before);
                            return Err(self.overtaken(index, position));
                        }
                    }
                }
            }
        }
        let observer = self.observers[index].as_mut().expect("it is there");
        (observer.position, observer.is_shown) = (position, shown.is_some());
        Ok(shown)
    }

    pub(super) fn overtaken(&mut self, index: usize, position: u64) -> ObserveError {
        let newest = self.newest;
        assert!(newest > position && newest >= self.limit - u64::from(CAPACITY_BYTES));
        let missed = ObserveError::Missed {
            records: self.number(newest) - self.number(position),
            bytes: newest - position,
        };
        let observer = self.observers[index].as_mut().expect("it is there");
        (observer.position, observer.is_shown) = (newest, false);
        missed
    }

    /// The payload of the record that was shown.
    pub(super) fn observed_payload(
        &mut self,
        index: usize,
    ) -> Result<Option<Vec<u8>>, ObserveError> {
        let observer = self.observers[index].as_ref().expect("it is there");
        let position = observer.position;
        if !observer.is_shown {
            return Ok(None);
        }
        if self.is_overwritten(position) {
            return Err(self.overtaken(index, position));
        }
        let record = self.record_at(position).expect("it was shown");
        Ok(Some(self.records[record].payload.clone()))
    }

    pub(super) fn advance(&mut self, index: usize) -> bool {
        let observer = self.observers[index].as_ref().expect("it is there");
        if !observer.is_shown {
            return false;
        }
        let record = self.record_at(observer.position).expect("it was shown");
        let end = self.records[record].end;
        let observer = self.observers[index].as_mut().expect("it is there");
        (observer.position, observer.is_shown) = (end, false);
        true
    }

    pub(super) fn held_bytes(&self) -> u64 {
        let unused = self.gaps.iter().filter(|gap| !gap.gone);
        unused.map(|gap| gap.bytes).sum()
    }

    /// A look of the retirer; whether it retired something.
    pub(super) fn look(&mut self) -> bool {
        let before = self.limit - u64::from(CAPACITY_BYTES);
        for gap in self.gaps.iter_mut().filter(|gap| !gap.gone) {
            let inside = gap.start..gap.start + gap.bytes;
            match gap.until {
                Some(until) => gap.gone = until <= before,
                None => {
                    let mut claims = self.records.iter();
                    let is_held = claims.any(|record| {
                        record.state == State::Retired && inside.contains(&record.position)
                    });
                    gap.until = (!is_held).then_some(self.limit);
                }
            }
        }
        let due = self.tails[0];
        self.tails = [self.tails[1], self.tail];
        let mut is_retired = false;
        loop {
            let is_stale =
                |record: &OracleRecord| record.state == State::Open && record.position < due;
            let Some(first) = self.records.iter().position(is_stale) else {
                return is_retired;
            };
            let start = self.records[first].position;
            if !is_retired {
                self.newest = self.newest.max(start);
            }
            let room_end = self.room_end(start).min(due);
            let mut end = start;
            let mut behind = first;
            while let Some(record) = self.records.get(behind)
                && is_stale(record)
                && record.position < room_end
            {
                (end, behind) = (record.end, behind + 1);
            }
            let gaps = self.gaps.iter().filter(|gap| !gap.gone).count();
            if gaps == GAPS_MAX || self.held_bytes() + (end - start) > HELD_BYTES_MAX {
                self.rejected_total += u64::from(self.rejected != Some(start));
                self.rejected = Some(start);
                return is_retired;
            }
            for record in &mut self.records[first..behind] {
                record.state = State::Retired;
            }
            self.gaps.push(OracleGap {
                start,
                bytes: end - start,
                until: None,
                gone: false,
            });
            is_retired = true;
        }
    }

    pub(super) fn claim(&mut self, payload: Vec<u8>) -> Result<usize, WriteError> {
        let capacity = u64::from(CAPACITY_BYTES);
        let payload_bytes = payload.len() as u64;
        if payload_bytes > capacity / 8 {
            return Err(WriteError::TooLarge);
        }
        let span = span(payload_bytes);
        loop {
            let mut position = self.tail;
            while let Some(bytes) = self.gap_at(position) {
                position += bytes;
            }
            let room_end = self.room_end(position);
            let is_padding = position + span > room_end;
            let end = if is_padding {
                room_end
            } else {
                position + span
            };
            if end > self.limit {
                let limit = self.slowest().unwrap_or(self.first_open()) + capacity;
                if end > limit {
                    // The sweeper goes as far as it can.
                    if self.slowest().is_none() {
                        self.limit = self.limit.max(limit);
                        self.newest = self.newest.max(self.first_open());
                    }
                    return Err(WriteError::Full);
                }
                if self.slowest().is_none() {
                    self.newest = self.newest.max(self.first_open());
                }
                self.limit = limit;
            }
            self.tail = end;
            let (state, record) = if is_padding {
                (State::Aborted, Vec::new())
            } else {
                (State::Open, payload.clone())
            };
            self.records.push(OracleRecord {
                position,
                end,
                state,
                tag: payload_bytes % 3,
                payload: record,
            });
            if !is_padding {
                return Ok(self.records.len() - 1);
            }
        }
    }

    pub(super) fn first_open(&self) -> u64 {
        let open = self
            .records
            .iter()
            .find(|record| record.state == State::Open);
        open.map_or(self.tail, |record| record.position)
    }

    pub(super) fn slowest(&self) -> Option<u64> {
        self.in_gate().min()
    }

    pub(super) fn in_gate(&self) -> impl Iterator<Item = u64> {
        let in_gate = self.readers.iter().flatten().filter(|reader| !reader.out);
        in_gate.map(|reader| reader.position)
    }

    /// Brings a reader back that was put out of the gate; bytes it has missed, if it was lapped.
    pub(super) fn enter(&mut self, index: usize) -> Result<(), u64> {
        let before = self.limit - u64::from(CAPACITY_BYTES);
        let reader = self.readers[index].as_mut().expect("the reader has joined");
        if !reader.out {
            return Ok(());
        }
        if reader.position >= before {
            reader.out = false;
            self.newest = self.newest.max(reader.position);
            return Ok(());
        }
        Err(self.tail - reader.position)
    }

    pub(super) fn catch_up(&mut self, index: usize) {
        let tail = self.tail;
        let reader = self.readers[index].as_mut().expect("the reader has joined");
        self.newest = self.newest.max(reader.position);
        assert!(self.newest >= self.limit - u64::from(CAPACITY_BYTES));
        reader.position = self.newest;
        reader.start = tail;
        reader.out = false;
    }

    /// A reader lets the writers have what it has passed.
    pub(super) fn publish(&mut self, index: usize) {
        let reader = self.readers[index].as_ref().expect("the reader has joined");
        self.newest = self.newest.max(reader.position);
    }

    pub(super) fn depth_bytes(&self) -> u64 {
        self.slowest().map_or(0, |slowest| self.tail - slowest)
    }

    pub(super) fn join(&mut self) -> Option<usize> {
        let index = self.readers.iter().position(Option::is_none)?;
        let (start, position) = (self.tail, self.first_open());
        self.newest = self.newest.max(position);
        self.readers[index] = Some(OracleReader {
            start,
            position,
            parked: false,
            out: false,
            away: false,
        });
        Some(index)
    }

    /// Moves the reader to its next record to be visited, and returns that record's payload.
    pub(super) fn peek(&mut self, index: usize) -> Option<(u64, Vec<u8>, u64)> {
        let reader = self.readers[index].as_ref().expect("the reader has joined");
        let (start, mut position) = (reader.start, reader.position);
        let next = loop {
            if position >= self.tail {
                break None;
            }
            if let Some(bytes) = self.gap_at(position) {
                position += bytes;
                continue;
            }
            let found = self.record_at(position);
            let record = &self.records[found.expect("records and gaps leave no gap")];
            match record.state {
                State::Open => break None,
                State::Committed if position >= start => {
                    break Some((record.tag, record.payload.clone(), record.end));
                }
                State::Committed | State::Aborted => position = record.end,
                State::Retired | State::Returned => panic!("{position} is in no gap"),
            }
        };
        let reader = self.readers[index].as_mut().expect("the reader has joined");
        reader.position = position;
        next
    }

    /// The payloads of the wanted records among the next ones, and how many records those are.
    pub(super) fn drain(
        &mut self,
        index: usize,
        records_max: usize,
    ) -> (Vec<Vec<u8>>, Result<usize, ReadError>) {
        let mut payloads = Vec::new();
        let mut records = 0;
        while records < records_max {
            if let Err(bytes) = self.enter(index) {
                self.catch_up(index);
                self.publish(index);
                return (payloads, Err(ReadError::Lapped(Lapped { bytes })));
            }
            let Some((tag, payload, end)) = self.peek(index) else {
                break;
            };
            if tag != UNWANTED_TAG {
                payloads.push(payload);
            }
            records += 1;
            self.readers[index].as_mut().expect("just peeked").position = end;
        }
        self.publish(index);
        (payloads, Ok(records))
    }
}
