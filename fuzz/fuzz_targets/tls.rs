//! What a peer sends to a listener with TLS.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| fanwire_fuzz::tls::talk(input));
