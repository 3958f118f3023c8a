//! Sessions of the analytics dialect.

#![no_main]

use fanwire::base::DialectId;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| fanwire_fuzz::play(DialectId::Analytics, input));
