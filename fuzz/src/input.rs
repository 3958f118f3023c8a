//! Numbers that an input chooses.

/// Chooses numbers by the bytes of `input`, two for each, and the largest possible behind its end.
pub(crate) fn chooser(input: &[u8]) -> impl FnMut(usize) -> usize {
    let mut bytes = input.iter();
    move |end| {
        let (Some(high), Some(low)) = (bytes.next(), bytes.next()) else {
            return end - 1;
        };
        usize::from(u16::from_be_bytes([*high, *low])) % end
    }
}

/// Bytes that look random and follow from `seed`, to choose by where the input has none to spare.
pub(crate) fn expanded(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let words = (0..length.div_ceil(8)).flat_map(|_| {
        // SplitMix64 (Steele, Lea, Flood, 2014).
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).to_be_bytes()
    });
    words.take(length).collect()
}
