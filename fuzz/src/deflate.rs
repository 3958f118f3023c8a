//! permessage-deflate: what clients say is compressed, and what this server compresses.

use fanwire::base::FrameEncoding;
use fanwire::ws::{Deflater, Inflater};

const BYTES_MAX: usize = 100_000;

/// Inflates `input` as a message, and compresses it with two holes, whose places and widths, and the
/// level, are in its first bytes.
pub fn deflate(input: &[u8]) {
    let mut inflater = Inflater::default();
    let inflated = inflater.inflate(input, BYTES_MAX).map(<[u8]>::to_vec);
    assert!(
        inflated.as_ref().is_ok_and(|text| text.len() <= BYTES_MAX) || inflated.is_err(),
        "more than allowed"
    );
    let again = inflater.inflate(input, BYTES_MAX).map(<[u8]>::to_vec);
    assert_eq!(again, inflated, "something is left of a message");

    let [level, places @ ..] = input else { return };
    let place =
        |index: usize| usize::from(*places.get(index).unwrap_or(&0)) * 5 % (input.len() + 1);
    let mut ends = [place(0), place(1), place(2), place(3)];
    ends.sort_unstable();
    let mut deflater = Deflater::new(u32::from(level % 9) + 1);
    for encoding in [FrameEncoding::Deflate, FrameEncoding::DeflateSmallWindow] {
        let holes = [ends[0]..ends[1], ends[2]..ends[3]];
        let (mut moved, mut payload) = (holes.clone(), Vec::new());
        assert!(deflater.deflate(encoding, input, &mut moved, &mut payload));
        let mut expected = input.to_vec();
        for (hole, moved) in holes.into_iter().zip(moved) {
            assert_eq!(payload[moved.clone()], input[hole.clone()]);
            expected[hole].fill(b'#');
            payload[moved].fill(b'#');
        }
        let inflated = inflater.inflate(&payload, input.len());
        assert_eq!(inflated, Ok(&expected[..]), "it does not come back");
    }
}
