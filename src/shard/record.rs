//! A publication as a record of the ring: its canonical form and its finished frames. The tag of the
//! record is the channel's.
//!
//! ```text
//!   0      1          2        3      4         6       8       12              16
//!   ├ form ┼ variants ┼ target ┼ scope┼ channel ┼ kind  ┼ data  ┼ flags         ┤
//!   │ (u8) │ (count)  │ (u8)   │ (u8) │ bytes   │ bytes │ bytes │ (u32)         │
//!   │      │ (u8)     │        │      │ (u16)   │ (u16) │ (u32) │               │
//!   16                                         24                              32
//!   ├ time (u64, unix ms)                      ┼ id (u64)                       ┤
//!   32
//!   ├ variants × (variant, frame bytes, two placeholders from the frame's start: 4 × u32) ┤
//!   ├ channel ┼ kind ┼ data ┼ target (u16 bytes, text) ┼ tenant (u16 bytes, text) ┤
//!   ├ position of all nodes (epoch u32, offset u64), if its flag is set ┼ frame … ┤
//!   ├ trace context (24 bytes), if the upper bit of the count of the variants is set          ┤
//! ```
//!
//! The channel is the name in the tables. The scope and the tenant say which of its subscribers'
//! tenants receive the publication; for the channel of one tenant, the name alone does.
//!
//! A publication longer than a record is written as fragments: the same bytes in pieces, each after
//! a prefix of sixteen bytes (form u8, zeros, the offset of the piece u32, the publication's id u64).
//! Every reader that wants the first one reassembles them. At the last one of others it knows the
//! position at which the history has the whole.

use super::frame_encoder::{FrameEncoder, append_frame};
use crate::base::channel_names::name_for_clients;
use crate::base::interest::variants_of;
use crate::base::{FrameEncoding, Position, TraceContext, Variant};
use crate::broker::{BroadcastTarget, Data, Publication, TenantScope};
use crate::dialect::{self, Placeholders, PublicationMeta};
use crate::ws::frame;

const HEADER_BYTES: usize = 32;
/// The form and the count of the variants.
const FIRST_BYTES: usize = 2;
const TABLE_ENTRY_BYTES: usize = 16;
/// The position of all nodes.
const SHARED_BYTES: usize = 12;
/// Upper bit of the count of the variants: the publication is traced.
const IS_TRACED: u8 = 1 << 7;
/// Flag of a publication that has a position in the history.
const FLAG_POSITION: u32 = 1;
/// Flag of a publication whose data are not JSON.
const FLAG_BINARY: u32 = 2;
/// Flag of a publication that has a position among those of all nodes.
const FLAG_SHARED: u32 = 4;
/// Flag of a publication that is for the history only.
const FLAG_QUIET: u32 = 8;
/// The offset of a frame without a placeholder.
const NO_PLACEHOLDER: u32 = u32::MAX;
/// Bytes in front of each piece of a fragmented publication.
pub(super) const FRAGMENT_PREFIX_BYTES: usize = 16;

/// The first byte of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Form {
    /// A whole publication.
    Whole = 1,
    /// The first piece of one.
    First = 2,
    /// A further piece of one.
    Middle = 3,
    /// The last piece of one.
    Last = 4,
}

/// A publication read from a record. Its texts are checked for UTF-8 only where they are needed as
/// texts: a writer of this process had them as such.
#[derive(Debug)]
pub(super) struct Record<'a> {
    pub(super) channel: &'a [u8],
    kind: &'a [u8],
    data: &'a [u8],
    is_binary: bool,
    target: u8,
    whom: &'a [u8],
    scope: u8,
    tenant: &'a [u8],
    pub(super) meta: PublicationMeta,
    table: &'a [u8],
    frames: &'a [u8],
}

/// A finished frame, and its placeholders: offsets from the frame's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) placeholders: Placeholders,
}

/// Writes a record into `output`, with a frame for each variant of the mask `variants`, whose texts
/// `render` appends. `channel` is the publication's `full_name`.
pub(super) fn write(
    output: &mut Vec<u8>,
    publication: &Publication<'_>,
    channel: &str,
    meta: PublicationMeta,
    (variants, encoder): (u32, &mut FrameEncoder),
    mut render: impl FnMut(Variant, &mut Vec<u8>) -> Placeholders,
) {
    let data = publication.data;
    let data_bytes = u32::try_from(data.bytes().len()).expect("messages are under 4 GiB");
    let variant_count = u8::try_from(variants.count_ones()).expect("a mask has 32 bits");
    let (target, whom) = match publication.target {
        BroadcastTarget::All => (0, ""),
        BroadcastTarget::User(user) => (1, user),
        BroadcastTarget::Role(role) => (2, role),
        BroadcastTarget::Permission(permission) => (3, permission),
        BroadcastTarget::Tenant(tenant) => (4, tenant),
        BroadcastTarget::Except(session) => (5, session),
    };
    let (scope, tenant) = match publication.reach() {
        TenantScope::Without => (0, ""),
        TenantScope::Of(tenant) => (1, tenant),
        TenantScope::All => (2, ""),
    };
    output.clear();
    output.extend_from_slice(&[Form::Whole as u8, variant_count, target, scope]);
    output.extend_from_slice(&name_bytes(channel));
    output.extend_from_slice(&name_bytes(publication.kind));
    output.extend_from_slice(&data_bytes.to_le_bytes());
    let mut flags = if meta.has_position { FLAG_POSITION } else { 0 };
    if data.is_binary() {
        flags |= FLAG_BINARY;
    }
    if meta.shared.is_some() {
        flags |= FLAG_SHARED;
    }
    if meta.is_quiet {
        flags |= FLAG_QUIET;
    }
    output.extend_from_slice(&flags.to_le_bytes());
    output.extend_from_slice(&meta.unix_ms.to_le_bytes());
    output.extend_from_slice(&meta.id.to_le_bytes());
    output.resize(
        HEADER_BYTES + usize::from(variant_count) * TABLE_ENTRY_BYTES,
        0,
    );
    output.extend_from_slice(channel.as_bytes());
    output.extend_from_slice(publication.kind.as_bytes());
    output.extend_from_slice(data.bytes());
    output.extend_from_slice(&name_bytes(whom));
    output.extend_from_slice(whom.as_bytes());
    output.extend_from_slice(&name_bytes(tenant));
    output.extend_from_slice(tenant.as_bytes());
    if let Some(shared) = meta.shared {
        output.extend_from_slice(&shared.epoch.to_le_bytes());
        output.extend_from_slice(&shared.offset.to_le_bytes());
    }
    let mut index = 0;
    for plain in Variant::all_plain() {
        let encodings = variants & plain.all_encodings();
        if encodings == 0 {
            continue;
        }
        let mut base = output.len();
        if data.is_binary() {
            for variant in variants_of(encodings) {
                let placeholders = append_binary(output, |output| render(plain, output));
                write_entry(output, (index, base), variant, placeholders);
                index += 1;
                base = output.len();
            }
            continue;
        }
        encoder.append(
            output,
            (plain, encodings),
            |output| render(plain, output),
            |output, variant, placeholders| {
                write_entry(output, (index, base), variant, placeholders);
                index += 1;
                base = output.len();
            },
        );
    }
    if let Some(context) = publication.trace {
        output[1] |= IS_TRACED;
        output.extend_from_slice(&context.to_bytes());
    }
}

/// Appends the frame of a binary publication. It is never compressed: programs send in binary what is
/// packed already.
fn append_binary(
    output: &mut Vec<u8>,
    render: impl FnOnce(&mut Vec<u8>) -> Placeholders,
) -> Placeholders {
    let base = output.len();
    let placeholders = append_frame(output, render);
    frame::mark_binary(&mut output[base..]);
    placeholders
}

/// Writes the entry of the table for the frame from `base` to the end of a record.
fn write_entry(
    output: &mut [u8],
    (index, base): (usize, usize),
    variant: Variant,
    placeholders: Placeholders,
) {
    let frame_bytes = u32::try_from(output.len() - base).expect("frames are under 4 GiB");
    let offset = |placeholder: Option<usize>| {
        placeholder.map_or(NO_PLACEHOLDER, |placeholder| {
            u32::try_from(placeholder).expect("a placeholder is inside its frame")
        })
    };
    let entry = [
        u32::from(variant.index()),
        frame_bytes,
        offset(placeholders.subscription_id),
        offset(placeholders.position),
    ];
    let at = HEADER_BYTES + index * TABLE_ENTRY_BYTES;
    let table = output[at..at + TABLE_ENTRY_BYTES].as_chunks_mut().0;
    for (bytes, field) in table.iter_mut().zip(entry) {
        *bytes = field.to_le_bytes();
    }
}

/// The context of the publication in a whole record, if it is traced.
pub(super) fn trace(record: &[u8]) -> Option<TraceContext> {
    if record.get(1)? & IS_TRACED == 0 {
        return None;
    }
    record.last_chunk().map(TraceContext::from_bytes)
}

/// What the history keeps of a record, in two parts: of its header what follows the count of the
/// variants, and what stands between the table and the frames. `None` when the bytes are not a valid
/// record.
pub(super) fn without_frames(record: &[u8]) -> Option<[&[u8]; 2]> {
    let Record { table, frames, .. } = Record::read(record)?;
    let header = record.get(FIRST_BYTES..HEADER_BYTES)?;
    let body = record.get(HEADER_BYTES + table.len()..record.len() - frames.len())?;
    Some([header, body])
}

fn name_bytes(text: &str) -> [u8; 2] {
    let length = u16::try_from(text.len()).expect("names are limited to some hundred bytes");
    length.to_le_bytes()
}

/// The form of a record.
pub(super) fn form(record: &[u8]) -> Option<Form> {
    Some(match record.first()? {
        1 => Form::Whole,
        2 => Form::First,
        3 => Form::Middle,
        4 => Form::Last,
        _ => return None,
    })
}

/// The prefix of a fragment of the publication with this id: the piece that begins at `offset`.
pub(super) fn fragment_prefix(form: Form, offset: usize, id: u64) -> [u8; FRAGMENT_PREFIX_BYTES] {
    let offset = u32::try_from(offset).expect("publications are under 4 GiB");
    let mut prefix = [0; FRAGMENT_PREFIX_BYTES];
    prefix[0] = form as u8;
    prefix[4..8].copy_from_slice(&offset.to_le_bytes());
    prefix[8..].copy_from_slice(&id.to_le_bytes());
    prefix
}

/// A piece of a publication.
#[derive(Debug)]
pub(super) struct Fragment<'a> {
    /// The publication's id.
    pub(super) id: u64,
    /// Where the piece begins.
    pub(super) offset: usize,
    pub(super) piece: &'a [u8],
}

/// Parses a fragment; `None` when the bytes are not a valid one.
pub(super) fn fragment(record: &[u8]) -> Option<Fragment<'_>> {
    Some(Fragment {
        id: read_u64(record, 8)?,
        offset: read_u32(record, 4)? as usize,
        piece: record.get(FRAGMENT_PREFIX_BYTES..)?,
    })
}

/// The publication's id in a whole record.
pub(super) fn id(record: &[u8]) -> Option<u64> {
    read_u64(record, FIRST_BYTES + 22)
}

impl<'a> Record<'a> {
    /// Parses a whole record; `None` when the bytes are not a valid record.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        Self::read_parts(
            bytes.get(FIRST_BYTES..)?,
            usize::from(*bytes.get(1)? & !IS_TRACED),
        )
    }

    /// Parses what the history keeps of a record; `None` when the bytes are not that.
    pub(super) fn read_kept(bytes: &'a [u8]) -> Option<Self> {
        Self::read_parts(bytes, 0)
    }

    /// Parses what follows the form and the count of the variants.
    fn read_parts(bytes: &'a [u8], variant_count: usize) -> Option<Self> {
        let (target, scope) = (*bytes.first()?, *bytes.get(1)?);
        let channel_bytes = usize::from(read_u16(bytes, 2)?);
        let kind_bytes = usize::from(read_u16(bytes, 4)?);
        let data_bytes = read_u32(bytes, 6)? as usize;
        let flags = read_u32(bytes, 10)?;
        let (table, rest) = bytes
            .get(HEADER_BYTES - FIRST_BYTES..)?
            .split_at_checked(variant_count * TABLE_ENTRY_BYTES)?;
        let (channel, rest) = rest.split_at_checked(channel_bytes)?;
        let (kind, rest) = rest.split_at_checked(kind_bytes)?;
        let (data, rest) = rest.split_at_checked(data_bytes)?;
        let whom_bytes = usize::from(read_u16(rest, 0)?);
        let (whom, rest) = rest.get(2..)?.split_at_checked(whom_bytes)?;
        let tenant_bytes = usize::from(read_u16(rest, 0)?);
        let (tenant, rest) = rest.get(2..)?.split_at_checked(tenant_bytes)?;
        let (shared, frames) = match flags & FLAG_SHARED {
            0 => (None, rest),
            _ => {
                let (epoch, offset) = (read_u32(rest, 0)?, read_u64(rest, 4)?);
                (Some(Position { epoch, offset }), rest.get(SHARED_BYTES..)?)
            }
        };
        let meta = PublicationMeta {
            has_position: flags & FLAG_POSITION != 0,
            shared,
            is_quiet: flags & FLAG_QUIET != 0,
            ..PublicationMeta::new(read_u64(bytes, 14)?, read_u64(bytes, 22)?)
        };
        Some(Self {
            channel,
            kind,
            data,
            is_binary: flags & FLAG_BINARY != 0,
            target,
            whom,
            scope,
            tenant,
            meta,
            table,
            frames,
        })
    }

    /// Which of the channel's subscribers receive it.
    pub(super) fn target(&self) -> Option<BroadcastTarget<'a>> {
        if self.target == 0 {
            return Some(BroadcastTarget::All);
        }
        let whom = text(self.whom)?;
        Some(match self.target {
            1 => BroadcastTarget::User(whom),
            2 => BroadcastTarget::Role(whom),
            3 => BroadcastTarget::Permission(whom),
            4 => BroadcastTarget::Tenant(whom),
            5 => BroadcastTarget::Except(whom),
            _ => return None,
        })
    }

    /// Of which tenants the channel's subscribers receive it.
    pub(super) fn reach(&self) -> Option<TenantScope<'a>> {
        Some(match self.scope {
            0 => TenantScope::Without,
            1 => TenantScope::Of(text(self.tenant)?),
            2 => TenantScope::All,
            _ => return None,
        })
    }

    /// Whether its data are not JSON.
    pub(super) fn is_binary(&self) -> bool {
        self.is_binary
    }

    /// Its data, for filters, which match nothing else than JSON.
    pub(super) fn data(&self) -> Option<&'a str> {
        match self.is_binary {
            true => None,
            false => text(self.data),
        }
    }

    /// What clients are told of it, for a frame that the writer did not encode.
    pub(super) fn publication(&self) -> Option<Publication<'a>> {
        let channel = name_for_clients(text(self.channel)?);
        let (target, kind) = (self.target()?, text(self.kind)?);
        let data = match self.is_binary {
            true => Data::Binary(self.data),
            false => Data::Json(text(self.data)?),
        };
        Some(Publication {
            target,
            data,
            ..Publication::new(channel, kind, "")
        })
    }

    /// Appends the frame of `variant`, as the writer would have encoded it. Nothing is appended if the
    /// texts are not valid.
    pub(super) fn encode(
        &self,
        variant: Variant,
        encoder: &mut FrameEncoder,
        output: &mut Vec<u8>,
    ) -> Placeholders {
        let mut placeholders = Placeholders::default();
        let Some(publication) = self.publication() else {
            return placeholders;
        };
        if self.is_binary {
            let plain = variant.encoded(FrameEncoding::Plain);
            return append_binary(output, |output| {
                dialect::of(plain.dialect()).publication(&publication, self.meta.of(plain), output)
            });
        }
        encoder.append(
            output,
            (variant.encoded(FrameEncoding::Plain), variant.bit()),
            |output| {
                let dialect = dialect::of(variant.dialect());
                dialect.publication(&publication, self.meta.of(variant), output)
            },
            |_, _, its| placeholders = its,
        );
        placeholders
    }

    /// The variants of which the writer encoded frames, as a mask.
    pub(super) fn variants(&self) -> u32 {
        let entries = self.table.chunks_exact(TABLE_ENTRY_BYTES);
        let bits = entries.filter_map(|entry| 1_u32.checked_shl(read_u32(entry, 0)?));
        bits.fold(0, |mask, bit| mask | bit)
    }

    /// The finished frame of `variant`, if the writer encoded one.
    pub(super) fn frame(&self, variant: Variant) -> Option<Frame<'a>> {
        let mut offset = 0;
        for entry in self.table.chunks_exact(TABLE_ENTRY_BYTES) {
            let frame_bytes = read_u32(entry, 4)? as usize;
            if read_u32(entry, 0)? == u32::from(variant.index()) {
                let placeholder = |at| {
                    let offset = read_u32(entry, at);
                    offset
                        .filter(|it| *it != NO_PLACEHOLDER)
                        .map(|it| it as usize)
                };
                return Some(Frame {
                    bytes: self.frames.get(offset..offset + frame_bytes)?,
                    placeholders: Placeholders {
                        subscription_id: placeholder(8),
                        position: placeholder(12),
                    },
                });
            }
            offset += frame_bytes;
        }
        None
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    simdutf8::basic::from_utf8(bytes).ok()
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?.try_into().ok()?;
    Some(u16::from_le_bytes(bytes))
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_le_bytes(bytes))
}

fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + 8)?.try_into().ok()?;
    Some(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::DialectId;
    use crate::config::CompressionPolicy;

    const GATEWAY: Variant = Variant::plain(DialectId::Gateway);
    const MONITORING: Variant = Variant::plain(DialectId::Monitoring);
    const STAMP: PublicationMeta = PublicationMeta {
        has_position: true,
        ..PublicationMeta::new(7, 9)
    };

    fn written(variants: &[Variant]) -> Vec<u8> {
        let mut output = Vec::new();
        let publication = Publication {
            target: BroadcastTarget::Role("admin"),
            ..Publication::new("news", "m", "{\"a\":1}")
        };
        write(
            &mut output,
            &publication,
            &publication.full_name(),
            STAMP,
            (
                variants
                    .iter()
                    .fold(0, |mask, variant| mask | variant.bit()),
                &mut FrameEncoder::new(CompressionPolicy::default()),
            ),
            |variant, output| {
                output.extend_from_slice(variant.name().as_bytes());
                Placeholders {
                    subscription_id: (variant == MONITORING).then_some(4),
                    position: (variant == GATEWAY).then_some(1),
                }
            },
        );
        output
    }

    #[test]
    fn a_record_reads_as_it_was_written() {
        let bytes = written(&[GATEWAY, MONITORING]);
        assert_eq!(form(&bytes), Some(Form::Whole));
        let record = Record::read(&bytes).unwrap();
        let expected = Publication {
            target: BroadcastTarget::Role("admin"),
            ..Publication::new("news", "m", "{\"a\":1}")
        };
        assert_eq!(record.channel, b"news");
        assert_eq!(record.publication(), Some(expected));
        assert_eq!(record.meta, STAMP);
        let gateway = Frame {
            bytes: b"\x81\x07gateway",
            placeholders: Placeholders {
                subscription_id: None,
                position: Some(3),
            },
        };
        assert_eq!(record.frame(GATEWAY), Some(gateway));
        let monitoring = Frame {
            bytes: b"\x81\x0amonitoring",
            placeholders: Placeholders {
                subscription_id: Some(6),
                position: None,
            },
        };
        assert_eq!(record.frame(MONITORING), Some(monitoring));
        let kept = without_frames(&bytes).unwrap().concat();
        let kept = Record::read_kept(&kept).unwrap();
        assert_eq!((kept.publication(), kept.meta), (Some(expected), STAMP));
        assert_eq!((kept.variants(), kept.frames), (0, &[][..]));
        let plain = written(&[MONITORING]);
        assert_eq!(Record::read(&plain).unwrap().frame(GATEWAY), None);
    }

    #[test]
    fn a_traced_publication_has_its_context_and_is_else_the_same() {
        let context = TraceContext {
            trace_id: [7; 16],
            span_id: [9; 8],
        };
        let publication = Publication::new("news", "m", "1");
        let write = |trace| {
            let mut output = Vec::new();
            let publication = Publication {
                trace,
                ..publication
            };
            write(
                &mut output,
                &publication,
                "news",
                STAMP,
                (
                    GATEWAY.bit(),
                    &mut FrameEncoder::new(CompressionPolicy::default()),
                ),
                |_, output| {
                    output.extend_from_slice(b"text");
                    Placeholders::default()
                },
            );
            output
        };
        let (plain, traced) = (write(None), write(Some(context)));
        assert_eq!((trace(&plain), trace(&traced)), (None, Some(context)));
        let record = Record::read(&traced).unwrap();
        assert_eq!(record.publication(), Some(publication));
        assert_eq!(record.frame(GATEWAY).unwrap().bytes, b"\x81\x04text");
        assert_eq!(without_frames(&traced), without_frames(&plain));
        assert_eq!(trace(&traced[..2]), None);
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
                record.publication();
                record.frame(GATEWAY);
            }
        }
    }
}
