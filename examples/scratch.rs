//! scratch
use std::io::Write;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let t = std::time::Instant::now();
    let m = qtuned::onnx::load(a[1].as_ref()).unwrap();
    eprintln!("import {:?}", t.elapsed());
    let x: Vec<f32> =
        std::fs::read(&a[2]).unwrap().chunks(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect();
    let s = m.graph.value(m.graph.input).shape.clone();
    let n = x.len() / s.iter().product::<usize>();
    let x = qtuned::engine::input_tensor(x, n, [s[1], s[2], s[0]]).unwrap();
    let k = qtuned::kernels::Kernels::detect().unwrap();
    let prepared = qtuned::ptq::prepare(m.graph, k);
    let e = prepared.engine().clone();
    let t = std::time::Instant::now();
    let plan = e.fp32_plan();
    eprintln!("plan {:?} groups {} kernel {}", t.elapsed(), e.groups().len(), k.name());
    let y = plan.run(&x, false).unwrap();
    let v: Vec<f32> = y[0].flatten_all().unwrap().to_vec1().unwrap();
    let mut f = std::fs::File::create(&a[3]).unwrap();
    for z in &v {
        f.write_all(&z.to_le_bytes()).unwrap();
    }
    let xs = x.clone();
    let cal = prepared.calibrate(n, &|i| Ok(xs.narrow(0, i, 1).unwrap()), &Default::default(), &|_| ()).unwrap();
    let q = vec![Some(qtuned::quant::Preset::Onednn.qconfig()); e.groups().len()];
    let t = std::time::Instant::now();
    let c = cal.convert(&q);
    eprintln!("convert {:?}", t.elapsed());
    let t = std::time::Instant::now();
    cal.convert(&q);
    eprintln!("again {:?}", t.elapsed());
    let yq = c.plan.run(&x, false).unwrap();
    let vq: Vec<f32> = yq[0].flatten_all().unwrap().to_vec1().unwrap();
    println!("int8 output sqnr {:.2} dB", qtuned::sqnr::Energies::of(&v, &vq).sqnr());
    let one = x.narrow(0, 0, 1).unwrap();
    let y1: Vec<f32> = plan.run(&one, true).unwrap()[0].flatten_all().unwrap().to_vec1().unwrap();
    assert_eq!(&v[..y1.len()], &y1[..]);
    for (name, p) in [("fp32", &plan), ("int8", &c.plan)] {
        let mut ts = vec![];
        for _ in 0..15 {
            let t = std::time::Instant::now();
            p.run(&one, false).unwrap();
            ts.push(t.elapsed().as_secs_f64() * 1e3);
        }
        ts.sort_by(f64::total_cmp);
        println!("{name} {:.2} ms  weights {} act {}", ts[7], p.weight_bytes(), p.activation_bytes());
    }
    if std::env::var("DESCRIBE").is_ok() {
        for l in c.plan.describe() {
            println!("{l}");
        }
    }
}
