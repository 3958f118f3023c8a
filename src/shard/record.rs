//! A publication as it travels through the ring: its canonical form and its finished frames.
//!
//! ```text
//!   0      1          2        4         6           8          12         16
//!   ├ form ┼ variants ┼ writer ┼ channel ┼ kind (u16)┼ data (u32)┼ zero (u32)┤   little-endian
//!   │      │ (count)  │ (u16)  │ (u16)   │ bytes     │ bytes     │           │
//!   ├──────┴──────────┴────────┴─────────┴───────────┴───────────┴───────────┤
//!   │ variants × (variant u32, frame bytes u32)                              │
//!   │ channel │ kind │ data │ frame │ frame …                                │
//! ```
//!
//! A publication longer than a record travels as fragments: the same bytes in pieces, each behind a
//! prefix of four bytes (form, zero, writer), put together again by every reader.

use crate::base::Variant;
use crate::broker::Publication;
use crate::ws::frame;

const HEADER_BYTES: usize = 16;
const TABLE_ENTRY_BYTES: usize = 8;
/// Bytes in front of each piece of a fragmented publication.
pub(super) const FRAGMENT_PREFIX_BYTES: usize = 4;

/// What the first byte of a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Form {
    /// A whole publication.
    Whole = 1,
    /// The first piece of one.
    First = 2,
    /// A further piece.
    Middle = 3,
    /// The last piece.
    Last = 4,
}

/// A publication read from a record.
#[derive(Debug)]
pub(super) struct Record<'a> {
    pub(super) publication: Publication<'a>,
    table: &'a [u8],
    frames: &'a [u8],
}

/// Writes a record into `output`, with a frame for each variant in `variants`.
pub(super) fn write(
    output: &mut Vec<u8>,
    writer: u16,
    publication: &Publication<'_>,
    variants: impl Iterator<Item = Variant> + Clone,
    mut render: impl FnMut(Variant, &mut Vec<u8>),
) {
    let length = |text: &str| u16::try_from(text.len()).expect("names are limited to 256 bytes");
    let data_bytes = u32::try_from(publication.data.len()).expect("messages are under 4 GiB");
    let variant_count = u8::try_from(variants.clone().count()).expect("variants fit a u32 mask");
    output.clear();
    output.extend_from_slice(&[Form::Whole as u8, variant_count]);
    output.extend_from_slice(&writer.to_le_bytes());
    output.extend_from_slice(&length(publication.channel).to_le_bytes());
    output.extend_from_slice(&length(publication.kind).to_le_bytes());
    output.extend_from_slice(&data_bytes.to_le_bytes());
    output.extend_from_slice(&[0; 4]);
    output.resize(
        HEADER_BYTES + usize::from(variant_count) * TABLE_ENTRY_BYTES,
        0,
    );
    output.extend_from_slice(publication.channel.as_bytes());
    output.extend_from_slice(publication.kind.as_bytes());
    output.extend_from_slice(publication.data.as_bytes());
    for (index, variant) in variants.enumerate() {
        let base = output.len();
        let start = frame::build_text(output, |output| render(variant, output));
        output.copy_within(start.., base);
        output.truncate(output.len() - (start - base));
        let frame_bytes = u32::try_from(output.len() - base).expect("frames are under 4 GiB");
        let entry = HEADER_BYTES + index * TABLE_ENTRY_BYTES;
        output[entry..entry + 4].copy_from_slice(&u32::from(variant.index()).to_le_bytes());
        output[entry + 4..entry + 8].copy_from_slice(&frame_bytes.to_le_bytes());
    }
}

/// The form of a record and the shard that wrote it.
pub(super) fn form(record: &[u8]) -> Option<(Form, u16)> {
    let form = match record.first()? {
        1 => Form::Whole,
        2 => Form::First,
        3 => Form::Middle,
        4 => Form::Last,
        _ => return None,
    };
    let writer = record.get(2..4)?.try_into().ok()?;
    Some((form, u16::from_le_bytes(writer)))
}

/// The prefix of a fragment.
pub(super) fn fragment_prefix(form: Form, writer: u16) -> [u8; FRAGMENT_PREFIX_BYTES] {
    let [low, high] = writer.to_le_bytes();
    [form as u8, 0, low, high]
}

impl<'a> Record<'a> {
    /// Reads a whole record; `None` when the bytes are none, as another program could have written.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let variant_count = usize::from(*bytes.get(1)?);
        let channel_bytes = usize::from(read_u16(bytes, 4)?);
        let kind_bytes = usize::from(read_u16(bytes, 6)?);
        let data_bytes = read_u32(bytes, 8)? as usize;
        let (table, rest) = bytes
            .get(HEADER_BYTES..)?
            .split_at_checked(variant_count * TABLE_ENTRY_BYTES)?;
        let (channel, rest) = rest.split_at_checked(channel_bytes)?;
        let (kind, rest) = rest.split_at_checked(kind_bytes)?;
        let (data, frames) = rest.split_at_checked(data_bytes)?;
        Some(Self {
            publication: Publication {
                channel: simdutf8::basic::from_utf8(channel).ok()?,
                kind: simdutf8::basic::from_utf8(kind).ok()?,
                data: simdutf8::basic::from_utf8(data).ok()?,
            },
            table,
            frames,
        })
    }

    /// The finished frame of `variant`, if the writer made one.
    pub(super) fn frame(&self, variant: Variant) -> Option<&'a [u8]> {
        let mut offset = 0;
        for entry in self.table.chunks_exact(TABLE_ENTRY_BYTES) {
            let frame_bytes = read_u32(entry, 4)? as usize;
            if read_u32(entry, 0)? == u32::from(variant.index()) {
                return self.frames.get(offset..offset + frame_bytes);
            }
            offset += frame_bytes;
        }
        None
    }
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?.try_into().ok()?;
    Some(u16::from_le_bytes(bytes))
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::DialectId;

    const GATEWAY: Variant = Variant::plain(DialectId::Gateway);
    const MONITORING: Variant = Variant::plain(DialectId::Monitoring);

    fn written(variants: &[Variant]) -> Vec<u8> {
        let mut output = Vec::new();
        let publication = Publication {
            channel: "news",
            kind: "m",
            data: "{\"a\":1}",
        };
        write(
            &mut output,
            3,
            &publication,
            variants.iter().copied(),
            |variant, output| {
                output.extend_from_slice(variant.name().as_bytes());
            },
        );
        output
    }

    #[test]
    fn a_record_reads_as_it_was_written() {
        let bytes = written(&[GATEWAY, MONITORING]);
        assert_eq!(form(&bytes), Some((Form::Whole, 3)));
        let record = Record::read(&bytes).unwrap();
        assert_eq!(
            (record.publication.channel, record.publication.kind),
            ("news", "m")
        );
        assert_eq!(record.publication.data, "{\"a\":1}");
        assert_eq!(record.frame(GATEWAY), Some(&b"\x81\x07gateway"[..]));
        assert_eq!(record.frame(MONITORING), Some(&b"\x81\x0amonitoring"[..]));
        let plain = written(&[MONITORING]);
        assert_eq!(Record::read(&plain).unwrap().frame(GATEWAY), None);
    }

    #[test]
    fn bytes_that_are_cut_or_changed_are_no_record_or_another_but_never_a_panic() {
        let bytes = written(&[GATEWAY]);
        for end in 0..bytes.len() {
            if let Some(record) = Record::read(&bytes[..end]) {
                record.frame(GATEWAY);
            }
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] = 0xff;
            if let Some(record) = Record::read(&changed) {
                record.frame(GATEWAY);
            }
        }
    }
}
