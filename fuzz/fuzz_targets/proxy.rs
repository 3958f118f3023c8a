//! Request heads of a trusted proxy, after a header of the PROXY protocol or not.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| fanwire_fuzz::head::request_of_proxy(input));
