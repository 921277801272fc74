//! What kernels do before they wait for the kernel before them: the emulator notices what a GPU would only do wrong now
//! and then.

use super::*;
use crate::backend::cuda::emulator;
use crate::backend::{Frame, RunOptions, SelectParams};
use crate::pose::model;

/// What a run of the smallest network says, with one kernel file changed: `from` becomes `to`.
fn run_with(file: &str, from: &str, to: &str) -> Option<Result<()>> {
    let text = emulator::source(file);
    assert!(text.contains(from), "{file}: the kernel has changed, and so must the mistake");
    let input = (32, 32);
    let plan = model::build(&model::random(model::Variant::T, 17, 2, 3), input).unwrap();
    let select = SelectParams { force: Some(2), ..SelectParams::default() };
    let (photo, letterbox) = photo(1, 40, 30, input);
    let gpu = Emulator::mutated(file, &text.replace(from, to), 1)?;
    let mut x = CudaExecutor::on(gpu, plan, Options { keep_all: false, ..OPTIONS }).unwrap();
    let options = RunOptions { select, ..RunOptions::default() };
    Some(x.run(&[Frame::new(&photo, &letterbox)], &options).map(|_| ()))
}

#[test]
fn early_reads_that_break_the_rule_are_noticed() {
    let mistakes = [
        ("layer_norm", "  pdl_wait();\n", "", "plain reads, without a wait"),
        (
            "collect",
            "  bool waited = false;\n",
            "  bool waited = false;\n  if (__ldcg(p.keypoints) == 1e30f) return;\n",
            "reads early what the kernel before it wrote",
        ),
        (
            "survivor_linear",
            "  pdl_wait();\n  pdl_launch();\n",
            "  pdl_launch();\n  pdl_wait();\n",
            "let it start before its own griddepcontrol.wait",
        ),
        (
            "select",
            "  pdl_wait();\n  pdl_launch();\n  const Frame f",
            "  const Frame f",
            "before griddepcontrol.wait",
        ),
    ];
    for (file, from, to, complaint) in mistakes {
        let Some(done) = run_with(file, from, to) else { return };
        let error = done.expect_err(complaint).to_string();
        let known = error.contains(complaint) || error.contains("before griddepcontrol.wait");
        assert!(known, "{file}: {error}");
        assert!(error.contains("kernel "), "{error}");
    }
}

/// The flag that moves early reads behind the wait changes nothing else.
#[test]
fn late_reads_give_the_same() {
    for file in ["gau", "bin_decode", "collect"] {
        let include = "#include \"counted.cuh\"";
        let Some(done) = run_with(file, include, &format!("#define RTMO_LATE_READS 1\n{include}")) else {
            return;
        };
        done.unwrap_or_else(|e| panic!("{file}: {e}"));
    }
}
