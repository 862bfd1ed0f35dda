use std::sync::Arc;
fn main() {
    let p = Arc::new(
        ktrace_timeline::Program::open(std::path::Path::new(&std::env::args().nth(1).unwrap())).unwrap(),
    );
    let threads = std::env::args().nth(2).and_then(|t| t.parse().ok()).unwrap_or(1);
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().unwrap();
    let t = std::time::Instant::now();
    let r = ktrace_timeline::verify::verify(&p, &|_| (), &|| false);
    let e = t.elapsed().as_secs_f64();
    println!(
        "{} proved {} div {} {:.1} M/s faults {:?}",
        r.instructions,
        r.proved,
        r.divergences.len(),
        r.instructions as f64 / e / 1e6,
        p.trace().faults()
    );
    for d in r.divergences.iter().take(10) {
        println!("{d:?}");
    }
}
