//! How long each part takes: `make micro`, or `cargo bench -p pgweir-micro -- NAME` for some.

use criterion::{Criterion, criterion_group, criterion_main};
use pgweir_micro::PARTS;

fn parts(criterion: &mut Criterion) {
    for part in PARTS {
        let mut work = (part.prepare)();
        criterion.bench_function(part.name, |bencher| bencher.iter(&mut work));
    }
}

criterion_group!(benches, parts);
criterion_main!(benches);
