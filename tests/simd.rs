//! Vectors of every instruction set, lane by lane, and the accuracy of the functions made of them.

mod common;

use common::isas;
use rtmo_engine::backend::cpu::Isa;
use rtmo_engine::backend::cpu::math;
use rtmo_engine::backend::cpu::simd::portable::Portable;
use rtmo_engine::backend::cpu::simd::{Kernel, Simd};

/// Runs a generic test function for every instruction set that this CPU has.
macro_rules! on_every_isa {
    ($test:ident) => {
        let mut run = 0;
        for isa in isas() {
            match isa {
                Isa::Portable => $test(isa.name(), Portable::<4>),
                Isa::Portable16 | Isa::Portable16Amx => $test(isa.name(), Portable::<16>),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => {
                    $test(isa.name(), rtmo_engine::backend::cpu::simd::avx2::Avx2::new().expect("available"))
                }
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => $test(
                    isa.name(),
                    rtmo_engine::backend::cpu::simd::avx512::Avx512::new().expect("available"),
                ),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512Bf16 | Isa::Amx => $test(
                    isa.name(),
                    rtmo_engine::backend::cpu::simd::avx512::Avx512Bf16::new().expect("available"),
                ),
                #[cfg(target_arch = "aarch64")]
                Isa::Neon => {
                    $test(isa.name(), rtmo_engine::backend::cpu::simd::neon::Neon::new().expect("available"))
                }
                #[allow(unreachable_patterns)] // instruction sets of other architectures
                _ => unreachable!("{} is not available here", isa.name()),
            }
            run += 1;
        }
        assert!(run > 0, "no instruction set");
    };
}

#[derive(Clone, Copy, Debug)]
enum Function {
    Exp,
    Silu,
    SiluApprox,
    Erf,
    Gelu,
    FastDiv,
    Round,
}

/// `f(x)`.
#[inline(always)]
fn apply<S: Simd>(s: S, function: Function, x: S::V) -> S::V {
    match function {
        Function::Exp => math::exp(s, x),
        Function::Silu => math::silu(s, x),
        Function::SiluApprox => s.silu_approx(x),
        Function::Erf => math::erf(s, x),
        Function::Gelu => math::gelu(s, x),
        Function::FastDiv => s.fast_div(s.splat(3.0), x),
        Function::Round => s.round(x),
    }
}

/// `y = f(x)` for all of `x`.
struct Apply<'a> {
    function: Function,
    x: &'a [f32],
}

impl Kernel for Apply<'_> {
    type Output = Vec<f32>;
    #[inline(always)]
    fn call<S: Simd>(self, s: S) -> Vec<f32> {
        let mut x = self.x.to_vec();
        x.resize(self.x.len().next_multiple_of(S::LANES), 0.0);
        for i in (0..x.len()).step_by(S::LANES) {
            let y = apply(s, self.function, s.load_slice(&x[i..]));
            s.store_slice(&mut x[i..], y);
        }
        x.truncate(self.x.len());
        x
    }
}

/// `n` values from `lo` to `hi`, both included.
fn line(lo: f32, hi: f32, n: usize) -> Vec<f32> {
    (0..n).map(|i| (f64::from(lo) + f64::from(hi - lo) * i as f64 / (n - 1) as f64) as f32).collect()
}

/// Powers of two from `2^lo` to `2^hi` and values between them, both signs.
fn magnitudes(lo: i32, hi: i32) -> Vec<f32> {
    let positive = (lo * 16..=hi * 16).map(|i| (f64::from(i) / 16.0).exp2() as f32);
    positive.flat_map(|x| [x, -x]).collect()
}

/// Largest `error(x, y)` over `x`, checked against a limit.
fn worst(isa: &str, what: &str, x: &[f32], y: &[f32], limit: f64, error: impl Fn(f64, f64) -> f64) {
    let mut worst = (0.0, 0.0, 0.0);
    for (&x, &y) in x.iter().zip(y) {
        let e = error(x.into(), y.into());
        let e = if e.is_nan() { f64::INFINITY } else { e };
        if e > worst.0 {
            worst = (e, x, y);
        }
    }
    println!("{isa}: {what}: {:.2e} at {:e} (gives {:e})", worst.0, worst.1, worst.2);
    assert!(
        worst.0 <= limit,
        "{isa}: {what}: {:.3e} at {:e} (gives {:e}), limit {limit:e}",
        worst.0,
        worst.1,
        worst.2
    );
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[test]
fn exp_is_accurate_to_some_units() {
    fn test<S: Simd>(isa: &str, s: S) {
        // Two and a half units of f32's last place, 1.2e-7; somewhat above two is the most that comes of the polynomial, the
        // reduction of its argument and their rounding.
        let relative = |x: f64, y: f64| (y / x.exp() - 1.0).abs();
        let apply = |x: &[f32]| s.vectorize(Apply { function: Function::Exp, x });
        let x = line(-87.3, 88.0, 2_000_003);
        worst(isa, "exp, relative", &x, &apply(&x), 3e-7, relative);
        let x = magnitudes(-40, 6);
        worst(isa, "exp of small numbers, relative", &x, &apply(&x), 3e-7, relative);
        // A softmax's masked and hopeless logits vanish.
        let x = [-88.0, -100.0, -1e4, -3e38, f32::NEG_INFINITY];
        worst(isa, "exp far below zero", &x, &apply(&x), 1.3e-38, |_, y| if y >= 0.0 { y } else { f64::NAN });
        let y = apply(&[0.0, -0.0]);
        assert_eq!(y, [1.0, 1.0], "{isa}: exp(0)");
    }
    on_every_isa!(test);
}

#[test]
fn silu_approx_is_as_good_as_it_says() {
    fn test<S: Simd>(isa: &str, s: S) {
        let apply = |x: &[f32]| s.vectorize(Apply { function: Function::SiluApprox, x });
        let error = |x: f64, y: f64| if x == 0.0 { y.abs() } else { (y / (x * sigmoid(x)) - 1.0).abs() };
        let x = line(-80.0, 80.0, 2_000_003);
        worst(isa, "approximate silu, relative", &x, &apply(&x), 2e-4, error);
        let y = apply(&[-1000.0, -1e30, 1000.0, 1e30, f32::NAN]);
        assert!(y[..2].iter().all(|&y| y <= 0.0 && y > -1e-6), "{isa}: silu far below zero: {y:?}");
        assert!((y[2] - 1000.0).abs() < 0.2 && (y[3] / 1e30 - 1.0).abs() < 2e-4, "{isa}: {y:?}");
        assert!(y[4].is_nan(), "{isa}: silu(NaN) = {}: a broken network must not look sound", y[4]);
    }
    on_every_isa!(test);
}

#[test]
fn silu_is_accurate_and_finite() {
    fn test<S: Simd>(isa: &str, s: S) {
        let apply = |x: &[f32]| s.vectorize(Apply { function: Function::Silu, x });
        let error = |x: f64, y: f64| (y - x * sigmoid(x)).abs() / x.abs().max(1.0);
        let x = line(-30.0, 30.0, 2_000_003);
        worst(isa, "silu, absolute over max(1, |x|)", &x, &apply(&x), 3e-7, error);
        let x = magnitudes(-40, 100);
        worst(isa, "silu of small and large numbers", &x, &apply(&x), 3e-7, error);
        // Near zero, where most values lie, the relative error counts.
        let x = line(-4.0, 4.0, 1_000_003);
        let relative = |x: f64, y: f64| if x == 0.0 { y.abs() } else { (y / (x * sigmoid(x)) - 1.0).abs() };
        worst(isa, "silu, relative", &x, &apply(&x), 6e-7, relative);
        let y = apply(&[-1000.0, -87.0, -88.0, -1e30, 1000.0, 0.0, f32::NAN, f32::INFINITY]);
        assert!(y[..3].iter().all(|&y| y <= 0.0 && y > -1e-33), "{isa}: silu far below zero: {y:?}");
        assert!(y[3] <= 0.0 && y[3] > -1e-6, "{isa}: silu(-1e30) = {}", y[3]);
        assert!((y[4] - 1000.0).abs() < 3e-4 && y[5] == 0.0, "{isa}: silu(1000), silu(0): {:?}", &y[4..6]);
        assert!(y[6].is_nan(), "{isa}: silu(NaN) = {}: a broken network must not look sound", y[6]);
        assert_eq!(y[7], f32::INFINITY, "{isa}: silu(inf)");
    }
    on_every_isa!(test);
}

#[test]
fn erf_and_gelu_are_accurate() {
    fn test<S: Simd>(isa: &str, s: S) {
        let apply = |function, x: &[f32]| s.vectorize(Apply { function, x });
        let x = line(-6.0, 6.0, 1_000_003);
        worst(isa, "erf, absolute", &x, &apply(Function::Erf, &x), 7e-7, |x, y| (y - libm::erf(x)).abs());
        let gelu = |x: f64| x * 0.5 * libm::erfc(-x / std::f64::consts::SQRT_2);
        worst(isa, "gelu, absolute", &x, &apply(Function::Gelu, &x), 1e-6, |x, y| (y - gelu(x)).abs());
        let x = magnitudes(-40, 60);
        let error = |x: f64, y: f64| (y - gelu(x)).abs() / x.abs().max(1.0);
        worst(isa, "gelu of small and large numbers", &x, &apply(Function::Gelu, &x), 3e-7, error);
        let y = apply(Function::Gelu, &[f32::NAN, 0.0, -20.0, 20.0]);
        assert!(y[0].is_nan(), "{isa}: gelu(NaN) = {}", y[0]);
        assert_eq!(y[1..], [0.0, 0.0, 20.0], "{isa}: gelu(0), gelu(-20), gelu(20)");
    }
    on_every_isa!(test);
}

#[test]
fn quotients_and_rounding() {
    fn test<S: Simd>(isa: &str, s: S) {
        let apply = |function, x: &[f32]| s.vectorize(Apply { function, x });
        let x: Vec<f32> = magnitudes(-120, 125).into_iter().chain(line(1.0, 2.0, 100_003)).collect();
        let relative = |x: f64, y: f64| (y * x / 3.0 - 1.0).abs();
        worst(isa, "3 / x, relative", &x, &apply(Function::FastDiv, &x), 2e-7, relative);
        let x: Vec<f32> =
            line(-130.0, 130.0, 26_001).into_iter().chain([0.5, 1.5, 2.5, -0.5, -1.5]).collect();
        let ties = |x: f64, y: f64| (y - x.round_ties_even()).abs();
        worst(isa, "round", &x, &apply(Function::Round, &x), 0.0, ties);
    }
    on_every_isa!(test);
}

/// Every operation of the trait on lanes of different values, against scalar arithmetic.
struct Lanes;

impl Kernel for Lanes {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let n = S::LANES;
        let value = |i: usize, k: f32| (i as f32 - 3.5) * k + 0.25;
        let array = |k: f32| -> [f32; 16] { std::array::from_fn(|i| value(i, k)) };
        let (a, b, c) = (array(1.0), array(-0.75), array(10.0));
        let get = |v: S::V| -> Vec<f32> {
            let mut lanes = [f32::NAN; 16];
            // SAFETY: LANES <= 16.
            unsafe { s.store(lanes.as_mut_ptr(), v) };
            assert!(lanes[n..].iter().all(|v| v.is_nan()), "a store of more than {n} lanes");
            lanes[..n].to_vec()
        };
        // SAFETY: LANES <= 16.
        let (va, vb, vc) = unsafe { (s.load(a.as_ptr()), s.load(b.as_ptr()), s.load(c.as_ptr())) };
        let each = |f: &dyn Fn(usize) -> f32| (0..n).map(f).collect::<Vec<_>>();
        assert_eq!(get(s.splat(2.5)), vec![2.5; n]);
        assert_eq!(get(va), a[..n]);
        assert_eq!(get(s.add(va, vb)), each(&|i| a[i] + b[i]));
        assert_eq!(get(s.sub(va, vb)), each(&|i| a[i] - b[i]));
        assert_eq!(get(s.mul(va, vb)), each(&|i| a[i] * b[i]));
        assert_eq!(get(s.div(va, vb)), each(&|i| a[i] / b[i]));
        assert_eq!(get(s.max(va, vb)), each(&|i| a[i].max(b[i])));
        assert_eq!(get(s.min(va, vb)), each(&|i| a[i].min(b[i])));
        // Exact in f32 whether fused or not.
        assert_eq!(get(s.mul_add(va, vb, vc)), each(&|i| a[i] * b[i] + c[i]));
        assert_eq!(get(s.neg_mul_add(va, vb, vc)), each(&|i| c[i] - a[i] * b[i]));
        assert_eq!(get(s.copysign(va, vb)), each(&|i| a[i].copysign(b[i])));
        assert_eq!(get(s.copysign(va, s.splat(-0.0))), each(&|i| -a[i].abs()));
        for power in [-126.0, -1.0, 0.0, 1.0, 63.0, 127.0f32] {
            let unit = each(&|i| 1.0 + i as f32 / 16.0);
            // SAFETY: as many lanes.
            let scaled = get(s.mul_pow2(unsafe { s.load(unit.as_ptr()) }, s.splat(power)));
            assert_eq!(scaled, each(&|i| unit[i] * power.exp2()), "2^{power}");
        }
        for factor in [-10.0, -1.5, -1.0, 0.125, 1.0, 10.0f32] {
            let (power, rest) = s.split_exp2(va, s.splat(factor));
            for (i, (power, rest)) in get(power).into_iter().zip(get(rest)).enumerate() {
                let exponent = power.log2();
                assert_eq!(power, exponent.round().exp2(), "a power of two");
                assert!(rest.abs() <= 0.5 && exponent + rest == a[i] * factor, "{} * {factor}", a[i]);
            }
        }
        assert_eq!(s.reduce_add(va), a[..n].iter().sum::<f32>());
        for peak in 0..n {
            let mut lanes = a;
            lanes[peak] = 100.0;
            // SAFETY: LANES <= 16.
            let v = unsafe { s.load(lanes.as_ptr()) };
            assert_eq!(s.reduce_max(v), 100.0, "largest in lane {peak}");
            assert_eq!(s.reduce_max(s.sub(v, s.splat(1000.0))), -900.0);
        }
        for first in 0..n {
            // Exactly as long as what may be touched.
            let mut source = a[..first].to_vec();
            let mut target = vec![f32::NAN; first];
            // SAFETY: `first` values are readable in the one and writable in the other.
            unsafe {
                let v = s.load_first(source.as_mut_ptr(), first);
                assert_eq!(
                    get(v),
                    each(&|i| if i < first { a[i] } else { 0.0 }),
                    "first {first} lanes loaded"
                );
                s.store_first(target.as_mut_ptr(), vb, first);
            }
            assert_eq!(target, b[..first], "first {first} lanes stored");
            let mut guarded = [7.0; 17];
            // SAFETY: room for all lanes.
            unsafe { s.store_first(guarded.as_mut_ptr(), vb, first) };
            assert!(guarded[first..].iter().all(|&v| v == 7.0), "stored beyond {first} lanes");
        }
    }
}

/// NaN, alone in each lane, through operations and functions.
struct NaNs;

impl Kernel for NaNs {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let get = |v: S::V| -> [f32; 16] {
            let mut lanes = [0.0; 16];
            s.store_slice(&mut lanes, v);
            lanes
        };
        for nan in [f32::NAN, -f32::NAN] {
            for lane in 0..S::LANES {
                let a: [f32; 16] = std::array::from_fn(|i| if i == lane { nan } else { i as f32 - 7.25 });
                let numbers = a.map(|a| if a.is_nan() { 3.0 } else { -2.0 - a });
                let (va, vb) = (s.load_slice(&a), s.load_slice(&numbers));
                let check = |what: &str, v: S::V, number: &dyn Fn(usize) -> f32| {
                    for (i, got) in get(v)[..S::LANES].iter().enumerate() {
                        let ok = if i == lane { got.is_nan() } else { *got == number(i) };
                        assert!(ok, "{what}: {got} in lane {i}, NaN in lane {lane}");
                    }
                };
                check("max(number, NaN)", s.max(vb, va), &|i| a[i].max(numbers[i]));
                check("min(number, NaN)", s.min(vb, va), &|i| a[i].min(numbers[i]));
                check("max_or_nan(number, NaN)", s.max_or_nan(vb, va), &|i| a[i].max(numbers[i]));
                check("max_or_nan(NaN, number)", s.max_or_nan(va, vb), &|i| a[i].max(numbers[i]));
                check("max_or_nan(NaN, NaN)", s.max_or_nan(va, va), &|i| a[i]);
                // Other lanes as without a NaN.
                let without = s.load_slice(&std::array::from_fn::<f32, 16, _>(|i| i as f32 - 7.25));
                for (what, f) in FUNCTIONS {
                    let expected = get(apply(s, f, without));
                    check(what, apply(s, f, va), &|i| expected[i]);
                }
            }
        }
    }
}

/// Those through which a NaN passes.
const FUNCTIONS: [(&str, Function); 5] = [
    ("exp", Function::Exp),
    ("silu", Function::Silu),
    ("silu_approx", Function::SiluApprox),
    ("erf", Function::Erf),
    ("gelu", Function::Gelu),
];

/// bf16 loads, stores and dot products.
struct Half;

impl Kernel for Half {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let n = S::LANES;
        let bits = |x: f32| half::bf16::from_f32(x).to_bits();
        let get = |v: S::V| -> Vec<f32> {
            let mut lanes = [0.0; 16];
            // SAFETY: LANES <= 16.
            unsafe { s.store(lanes.as_mut_ptr(), v) };
            lanes[..n].to_vec()
        };
        // Exact in bf16: eight significant bits.
        let exact: [f32; 32] = std::array::from_fn(|i| (i as f32 - 11.0) * 0.375);
        let packed = exact.map(bits);
        // SAFETY: 32 values, LANES <= 16.
        assert_eq!(get(unsafe { s.load_bf16(packed.as_ptr()) }), exact[..n]);
        // Ties to even, carries into the exponent.
        let values: [f32; 16] = std::array::from_fn(|i| match i % 4 {
            0 => f32::from_bits(0x3f80_8000 + ((i as u32) << 16)),
            1 => f32::from_bits(0x3f7f_ffff),
            2 => -std::f32::consts::PI * i as f32,
            _ => 1e-3 / i as f32,
        });
        for first in 0..=n {
            let mut stored = [0xffff_u16; 17];
            // SAFETY: LANES <= 16.
            unsafe { s.store_bf16(stored.as_mut_ptr(), s.load(values.as_ptr()), first) };
            for (i, &got) in stored.iter().enumerate() {
                let expected = if i < first { bits(values[i]) } else { 0xffff };
                assert_eq!(got, expected, "lane {i} of {first} stored as bf16");
            }
        }
        // acc + a0 b0 + a1 b1, all exact.
        let pair = u32::from(bits(1.5)) | u32::from(bits(-0.25)) << 16;
        // SAFETY: 2 * LANES <= 32 values.
        let dot = unsafe { s.dot_bf16(s.splat(0.5), pair, packed.as_ptr()) };
        let expected: Vec<f32> = (0..n).map(|i| 0.5 + 1.5 * exact[2 * i] - 0.25 * exact[2 * i + 1]).collect();
        assert_eq!(get(dot), expected);
    }
}

#[test]
fn every_operation_on_every_lane() {
    fn test<S: Simd>(_: &str, s: S) {
        s.vectorize(Lanes);
        s.vectorize(Half);
        s.vectorize(NaNs);
    }
    on_every_isa!(test);
}
