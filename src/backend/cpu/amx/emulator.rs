//! Executes AMX's instructions on x86-64 CPUs without them, so that tests run the code of `unit.rs` itself. The instructions
//! raise an invalid-opcode exception. Its signal handler decodes them, computes their results, and continues behind them.
//!
//! Written to Intel's manual (volume 2, chapter 3, of each instruction): VEX prefix of three bytes, map 0F38.

use half::bf16;
use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::sync::Once;

/// Tile registers of a thread: `None` until configured.
struct Tiles {
    /// Rows and bytes a row of each.
    shape: [(usize, usize); 8],
    data: [[[u8; 64]; 16]; 8],
}

thread_local! {
    static TILES: RefCell<Option<Tiles>> = const { RefCell::new(None) };
}

/// Lets this process execute AMX's instructions.
pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the handler touches nothing but its thread's tiles and the memory that the instruction names; it is only
        // entered in the middle of one, where nothing of this thread's Rust code is half done.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handle as extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) as usize;
            action.sa_flags = libc::SA_SIGINFO;
            assert_eq!(libc::sigaction(libc::SIGILL, &action, std::ptr::null_mut()), 0);
        }
    });
}

extern "C" fn handle(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: with SA_SIGINFO the third argument is the interrupted thread's context.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let at = registers[libc::REG_RIP as usize] as *const u8;
    // SAFETY: an instruction lies there; a shorter one is followed by code.
    let code = unsafe { std::slice::from_raw_parts(at, 10) };
    match execute(code, registers) {
        Some(length) => registers[libc::REG_RIP as usize] += length as i64,
        // Not one of AMX's: executed again, it is fatal.
        // SAFETY: the default action is always allowed.
        None => unsafe {
            libc::signal(libc::SIGILL, libc::SIG_DFL);
        },
    }
}

/// General registers by their numbers in instructions.
const GENERAL: [c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// A memory operand: the address by base and displacement, the scaled index (for a tile, the distance of its rows), and the bytes
/// of the encoding from ModRM on. `extend` are the fourth bits of the index's and the base's numbers.
fn operand(code: &[u8], registers: &[i64], extend: (u8, u8)) -> (u64, u64, usize) {
    let general = |n: u8| registers[GENERAL[usize::from(n)] as usize] as u64;
    let (mode, mut base, mut index, mut length) = (code[0] >> 6, code[0] & 7, 0, 1);
    if base == 4 {
        let sib = code[1];
        (base, length) = (sib & 7, 2);
        let number = ((sib >> 3) & 7) | extend.0;
        index = if number == 4 { 0 } else { general(number) << (sib >> 6) };
    }
    assert!(mode != 0 || base != 5, "an address without a base register");
    let displacement = match mode {
        0 => 0,
        1 => i64::from(code[length] as i8),
        2 => i64::from(i32::from_le_bytes(code[length..length + 4].try_into().expect("four bytes"))),
        _ => unreachable!("a memory operand"),
    };
    let address = general(base | extend.1).wrapping_add(displacement as u64);
    (address, index, length + [0, 1, 4][usize::from(mode)])
}

/// Executes an instruction of AMX and returns its length; `None` if it is another.
fn execute(code: &[u8], registers: &[i64]) -> Option<usize> {
    let [0xc4, second, third, opcode, modrm, ..] = *code else { return None };
    // Bits R, X and B, inverted, and the map; W, the second source, inverted, L and the implied prefix.
    let (map, extend) = (second & 31, ((!second >> 3) & 8, (!second >> 2) & 8));
    let (source, prefix) = (usize::from((!third >> 3) & 15), third & 3);
    if map != 2 || third & 0x84 != 0 {
        return None;
    }
    let (memory, first) = (modrm < 0xc0, usize::from((modrm >> 3) & 7));
    TILES.with_borrow_mut(|tiles| match (opcode, prefix, memory) {
        (0x49, 0, true) if first == 0 => {
            let (address, _, length) = operand(&code[4..], registers, extend);
            // SAFETY: the instruction reads 64 bytes.
            let given = unsafe { std::slice::from_raw_parts(address as *const u8, 64) };
            assert!(given[0] == 1 && given[1..16].iter().all(|&b| b == 0), "palette 1, from row 0 on");
            let shape = std::array::from_fn(|t| {
                (
                    usize::from(given[48 + t]),
                    usize::from(u16::from_le_bytes([given[16 + 2 * t], given[17 + 2 * t]])),
                )
            });
            assert!(shape.iter().all(|&(rows, bytes)| rows <= 16 && bytes <= 64 && bytes % 4 == 0));
            *tiles = Some(Tiles { shape, data: [[[0; 64]; 16]; 8] });
            Some(4 + length)
        }
        (0x49, 0, false) if modrm == 0xc0 => {
            *tiles = None;
            Some(5)
        }
        (0x49, 3, false) if modrm & 7 == 0 => {
            tiles.as_mut()?.data[first] = [[0; 64]; 16];
            Some(5)
        }
        (0x4b, 2 | 3, true) if modrm & 7 == 4 => {
            let Tiles { shape, data } = tiles.as_mut()?;
            let (address, distance, length) = operand(&code[4..], registers, extend);
            for (row, values) in data[first].iter_mut().enumerate().take(shape[first].0) {
                let at = address.wrapping_add(distance.wrapping_mul(row as u64)) as *mut u8;
                let bytes = shape[first].1;
                // SAFETY: the instruction reads or writes as many bytes of each row.
                unsafe {
                    match prefix {
                        3 => std::ptr::copy_nonoverlapping(at, values.as_mut_ptr(), bytes),
                        _ => std::ptr::copy_nonoverlapping(values.as_ptr(), at, bytes),
                    }
                }
            }
            Some(4 + length)
        }
        (0x5c, 2, false) => {
            let Tiles { shape, data } = tiles.as_mut()?;
            let (a, b) = (usize::from(modrm & 7), source);
            let ((rows, width), (pairs, _)) = (shape[first], shape[b]);
            assert!(shape[a] == (rows, 4 * pairs) && shape[b].1 == width, "tiles that fit");
            let number =
                |row: &[u8; 64], i: usize| bf16::from_le_bytes([row[2 * i], row[2 * i + 1]]).to_f32();
            for m in 0..rows {
                for n in 0..width / 4 {
                    let at = 4 * n..4 * n + 4;
                    let mut sum =
                        f32::from_le_bytes(data[first][m][at.clone()].try_into().expect("four bytes"));
                    for k in 0..pairs {
                        for odd in 0..2 {
                            sum += number(&data[a][m], 2 * k + odd) * number(&data[b][k], 2 * n + odd);
                        }
                    }
                    data[first][m][at].copy_from_slice(&sum.to_le_bytes());
                }
            }
            Some(5)
        }
        _ => None,
    })
}
