#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pgweir::fuzzing::run("tls_records", data));
