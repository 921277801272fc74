//! Pictures from Python: arrays of numpy, and of others by DLPack and `__cuda_array_interface__`, PIL images, paths.

use crate::cuda::{Gpu, Interface, has_interface};
use crate::dlpack::{Place, Tensor};
use crate::errors::{OrRaise, usage};
use numpy::ndarray::Array3;
use numpy::{PyArray3, PyArrayMethods, PyReadonlyArray3, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyBufferError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::PyString;
use rtmo_engine::vision::MAX_SIDE;
use rtmo_engine::{ChannelOrder, DeviceImage, DeviceStream, Error, Image, Photo, Result};
use std::path::PathBuf;

/// A picture that Python gave. Pixels in an array stay where they are.
pub enum Given<'py> {
    /// Rows of pixels of three bytes that follow one another, at any distance between rows.
    Array(PyReadonlyArray3<'py, u8>, Layout),
    /// The same in an array of another library.
    Tensor(Tensor, Layout),
    /// Pixels that were copied to rows without gaps, since they were in another layout.
    Copied(Vec<u8>, Layout),
    /// Pixels in the memory of the engine's GPU.
    Device {
        image: DeviceImage,
        /// Keeps them, if DLPack has handed them over.
        _owner: Option<Tensor>,
    },
    /// A file.
    File(PathBuf),
}

/// Where the pixels of an array are.
#[derive(Clone, Copy)]
pub struct Layout {
    width: usize,
    height: usize,
    /// Bytes from row to row.
    stride: usize,
    order: ChannelOrder,
    /// Bytes from the first value of the array to the first byte of the first pixel: -2 where channels run backwards.
    offset: isize,
}

/// A picture while Python's lock is released.
pub enum Picture<'a> {
    /// Pixels in memory.
    Memory(Image<'a>),
    /// Pixels in the memory of the engine's GPU.
    Device(DeviceImage),
    /// A file.
    File(&'a PathBuf),
}

impl<'py> Given<'py> {
    /// A picture from an object; `rgb` says the order of an array's channels. With `gpu` the picture may be in that GPU's
    /// memory.
    ///
    /// # Errors
    /// `TypeError` if it is nothing that pictures are made of, or in other memory; `ValueError` if it has another shape.
    pub fn new(object: &Bound<'py, PyAny>, rgb: bool, gpu: Option<Gpu>) -> PyResult<Given<'py>> {
        let order = if rgb { ChannelOrder::Rgb } else { ChannelOrder::Bgr };
        if let Ok(array) = object.cast::<PyUntypedArray>() {
            return Given::array(array, order);
        }
        if let Ok(path) = object.extract::<PathBuf>() {
            return Ok(Given::File(path));
        }
        let place = Place::of(object);
        if place.map_or_else(|| has_interface(object), |place| !place.is_host()) {
            return Given::device(object, place, gpu, order);
        }
        let numpy = object.py().import("numpy")?;
        if is_pil(object)? {
            let mode: String = object.getattr("mode")?.extract()?;
            if mode.starts_with('I') || mode == "F" {
                return Err(usage(format!(
                    "image: a PIL image of mode {mode}: expected 8 bits a channel, such as RGB or L"
                )));
            }
            let pixels = numpy.call_method1("asarray", (object.call_method1("convert", ("RGB",))?,))?;
            return Given::array(pixels.cast()?, ChannelOrder::Rgb);
        }
        if place.is_some() {
            match Tensor::take(object, None) {
                Ok(tensor) => return Given::tensor(tensor, order),
                // Some arrays cannot be handed over, but copied.
                Err(error)
                    if error.is_instance_of::<PyBufferError>(object.py())
                        && object.hasattr("__array__")? => {}
                Err(error) => return Err(error),
            }
        }
        if object.hasattr("__array_interface__")? || object.hasattr("__array__")? {
            return Given::array(numpy.call_method1("asarray", (object,))?.cast()?, order);
        }
        let kind = object.get_type().qualname()?;
        Err(PyTypeError::new_err(format!(
            "image: expected a numpy array of uint8 and shape (height, width, 3), a PIL image or a path, got {kind}"
        )))
    }

    fn array(array: &Bound<'py, PyUntypedArray>, order: ChannelOrder) -> PyResult<Given<'py>> {
        let wrong = || unsuitable(&array.dtype().to_string(), array.shape());
        let Ok(pixels) = array.cast::<PyArray3<u8>>() else { return Err(wrong()) };
        let (&[height, width, 3], &[row, pixel, channel]) = (array.shape(), array.strides()) else {
            return Err(wrong());
        };
        let pixels = pixels.try_readonly()?;
        if let Some(layout) = Layout::new([height, width], [row, pixel, channel], order)? {
            return Ok(Given::Array(pixels, layout));
        }
        // An array that repeats itself may be larger than memory.
        drop(room(array.len())?);
        let all: Array3<u8> = pixels.as_array().as_standard_layout().into_owned();
        let (bytes, _) = all.into_raw_vec_and_offset();
        Ok(Given::Copied(bytes, Layout::tight([height, width], order)))
    }

    /// A picture in the memory of a GPU.
    fn device(
        object: &Bound<'py, PyAny>,
        place: Option<Place>,
        gpu: Option<Gpu>,
        order: ChannelOrder,
    ) -> PyResult<Given<'py>> {
        let elsewhere = |expected: String, hint: &str| {
            let place = place.map_or("a GPU (CUDA)".into(), Place::name);
            Err(PyTypeError::new_err(format!(
                "image: this array is in the memory of {place}: expected an array in {expected}; {hint}"
            )))
        };
        let Some(gpu) = gpu else {
            let hint = "copy it there, for example by tensor.cpu()";
            return elsewhere("the computer's memory, where this is computed".into(), hint);
        };
        if place.is_some_and(|place| place.cuda() != Some(gpu.ordinal)) {
            let expected = format!(
                "the memory of GPU {} (CUDA), where this engine is, or in the computer's",
                gpu.ordinal
            );
            return elsewhere(expected, "copy it, for example by tensor.to('cuda:N') or tensor.cpu()");
        }
        // Of the two protocols DLPack is the one by which the owner always makes the reader wait for pixels.
        let (tensor, Interface { address, shape, strides, dtype, stream }) = match place {
            Some(_) => {
                let tensor = Tensor::take(object, Some(gpu))?;
                let (shape, strides) = tensor.sides();
                let (address, dtype) = (tensor.data().addr() as u64, tensor.dtype());
                let stream = DeviceStream::Ready;
                (Some(tensor), Interface { address, shape, strides, dtype, stream })
            }
            None => (None, Interface::of(object)?),
        };
        let (&[height, width, 3], &[row, pixel, channel], "uint8") = (&*shape, &*strides, &*dtype) else {
            return Err(unsuitable(&dtype, &shape));
        };
        let Some(layout) = Layout::new([height, width], [row, pixel, channel], order)? else {
            return Err(usage(format!(
                "image: expected rows of pixels of three bytes that lie side by side, got distances of {row}, {pixel} and \
                 {channel} bytes from row to row, pixel to pixel and channel to channel; in GPU memory pixels are not \
                 rearranged: copy them, for example by tensor.contiguous()"
            )));
        };
        // SAFETY: the owner promises by its protocol that the pixels are at these distances from the address, in the memory of
        // a GPU, and that `stream` exists. It keeps them as long as the object, which the caller's list holds, or the tensor.
        // The documentation forbids to write to them meanwhile. That it is the engine's GPU the engine asks the driver.
        let image = unsafe { layout.device_image(address, stream) }?;
        Ok(Given::Device { image, _owner: tensor })
    }

    fn tensor(tensor: Tensor, order: ChannelOrder) -> PyResult<Given<'py>> {
        let (shape, strides) = tensor.sides();
        let dtype = tensor.dtype();
        let (&[height, width, 3], &[row, pixel, channel]) = (&*shape, &*strides) else {
            return Err(unsuitable(&dtype, &shape));
        };
        if dtype != "uint8" {
            return Err(unsuitable(&dtype, &shape));
        }
        if let Some(layout) = Layout::new([height, width], [row, pixel, channel], order)? {
            return Ok(Given::Tensor(tensor, layout));
        }
        let layout = Layout::tight([height, width], order);
        let mut bytes = room(layout.bytes())?;
        for y in 0..height as isize {
            for x in 0..width as isize {
                for c in 0..3 {
                    // SAFETY: the tensor's owner promises that every element of its shape is at its strides from the first.
                    bytes.push(unsafe { *tensor.data().offset(y * row + x * pixel + c * channel) });
                }
            }
        }
        Ok(Given::Copied(bytes, layout))
    }

    /// The picture, for use while Python's lock is released.
    ///
    /// # Errors
    /// If a side is too long.
    pub fn picture(&self) -> PyResult<Picture<'_>> {
        match self {
            Given::File(path) => Ok(Picture::File(path)),
            Given::Device { image, .. } => Ok(Picture::Device(*image)),
            Given::Copied(bytes, layout) => {
                let image = Image::new(layout.width, layout.height, layout.order, bytes);
                Ok(Picture::Memory(image.or_raise()?))
            }
            // SAFETY: both have `height` rows of `width` pixels, which `Layout::new` found `stride` and 3 bytes apart with
            // their three bytes side by side; they keep them alive.
            Given::Array(pixels, layout) => unsafe { layout.picture(pixels.data()) },
            // SAFETY: as above.
            Given::Tensor(tensor, layout) => unsafe { layout.picture(tensor.data()) },
        }
    }
}

impl Layout {
    /// Of pixels that lie so that they can be read in place; `None` if they must be copied. Distances in bytes.
    ///
    /// # Errors
    /// If a side is zero or too long.
    fn new(
        [height, width]: [usize; 2],
        [row, pixel, channel]: [isize; 3],
        order: ChannelOrder,
    ) -> PyResult<Option<Layout>> {
        if width == 0 || height == 0 || width > MAX_SIDE || height > MAX_SIDE {
            return Err(usage(format!("image: {width}x{height} pixels: expected 1 to {MAX_SIDE} a side")));
        }
        let reversed = match order {
            ChannelOrder::Rgb => ChannelOrder::Bgr,
            _ => ChannelOrder::Rgb,
        };
        // In a single column or row the distance to the next is any number.
        let pixel = if width == 1 { 3 } else { pixel };
        let stride = if height == 1 { 3 * width } else { row.try_into().unwrap_or(0) };
        let (order, offset) = match (pixel, channel) {
            (3, 1) => (order, 0),
            (3, -1) => (reversed, -2),
            _ => return Ok(None),
        };
        Ok((stride >= 3 * width).then_some(Layout { width, height, stride, order, offset }))
    }

    /// Of pixels without gaps.
    fn tight([height, width]: [usize; 2], order: ChannelOrder) -> Layout {
        Layout { width, height, stride: 3 * width, order, offset: 0 }
    }

    /// From the first byte of the first pixel to the last byte of the last one.
    fn bytes(&self) -> usize {
        self.stride * (self.height - 1) + 3 * self.width
    }

    /// The picture whose first value is at `address` in GPU memory, written in `stream`.
    ///
    /// # Safety
    /// As [`DeviceImage::new`], for these rows.
    unsafe fn device_image(&self, address: u64, stream: DeviceStream) -> PyResult<DeviceImage> {
        let address = address.wrapping_add_signed(self.offset as i64);
        // SAFETY: the caller's promise.
        let image = unsafe {
            DeviceImage::new(address, self.width, self.height, self.order)
                .and_then(|image| image.with_stride(self.stride))
                .map(|image| image.with_stream(stream))
        };
        image.or_raise()
    }

    /// The picture whose first value is at `first`.
    ///
    /// # Safety
    /// `first` is the first value of an array that has `height` rows of `width` pixels, `stride` and 3 bytes apart, with their
    /// three bytes side by side, and which stays as long as the picture. If another thread writes to it meanwhile, that changes
    /// what is computed; the documentation forbids it.
    unsafe fn picture<'a>(&self, first: *const u8) -> PyResult<Picture<'a>> {
        // SAFETY: `offset` leads from the first value to the lowest byte of the first pixel; the bytes from there to the last
        // byte of the last pixel lie within the array.
        let data = unsafe { std::slice::from_raw_parts(first.offset(self.offset), self.bytes()) };
        let image = Image::new(self.width, self.height, self.order, data);
        Ok(Picture::Memory(image.and_then(|image| image.with_stride(self.stride)).or_raise()?))
    }
}

impl Picture<'_> {
    /// A copy of its pixels.
    ///
    /// # Errors
    /// If it is a file that cannot be read.
    pub fn to_photo(&self) -> Result<Photo> {
        match self {
            Picture::Memory(image) => Ok(image.to_photo()),
            Picture::Device(_) => Err(Error::Usage("image: expected one in the computer's memory".into())),
            Picture::File(path) => Photo::open(path),
        }
    }
}

/// For tests: what an engine on GPU `ordinal`, whose stream has this handle, makes of an array in GPU memory.
#[pyfunction]
pub fn device_image(image: &Bound<'_, PyAny>, rgb: bool, ordinal: i32, stream: u64) -> PyResult<String> {
    match Given::new(image, rgb, Some(Gpu { ordinal, stream }))?.picture()? {
        Picture::Device(image) => Ok(format!("{image:?}")),
        _ => Err(usage("image: expected one in GPU memory")),
    }
}

/// Memory for a copy of so many bytes.
fn room(bytes: usize) -> PyResult<Vec<u8>> {
    let mut room = Vec::new();
    match room.try_reserve_exact(bytes) {
        Ok(()) => Ok(room),
        Err(_) => Err(usage(format!("image: {bytes} bytes of pixels: there is no memory for a copy"))),
    }
}

/// Why an array is no picture.
fn unsuitable(dtype: &str, shape: &[usize]) -> PyErr {
    if dtype != "uint8" {
        let hint = match dtype.starts_with("float") {
            true => "; values from 0 to 1 become (255 * image).astype(numpy.uint8)",
            false => "",
        };
        return PyTypeError::new_err(format!("image: expected an array of uint8, got {dtype}{hint}"));
    }
    let hint = match shape {
        [_, _, 4] => "; image[..., :3] leaves out the alpha channel",
        [_, _] | [_, _, 1] => {
            "; numpy.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2) makes three channels of a grey one"
        }
        [3, _, _] => "; image.transpose(1, 2, 0) has the channels last",
        [_, _, _, 3] => "; a batch is a list of images: list(array)",
        _ => "",
    };
    let shape: Vec<String> = shape.iter().map(usize::to_string).collect();
    usage(format!("image: expected shape (height, width, 3), got ({}){hint}", shape.join(", ")))
}

/// Whether an object's numbers are in the memory of a GPU.
pub fn in_gpu_memory(object: &Bound<'_, PyAny>) -> bool {
    // The question costs numpy's arrays and paths nothing.
    if object.cast::<PyUntypedArray>().is_ok() || object.is_instance_of::<PyString>() {
        return false;
    }
    Place::of(object).map_or_else(|| has_interface(object), |place| !place.is_host())
}

/// Whether an object is an image of PIL, which need not be installed.
fn is_pil(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    let of_pil = |class: Bound<'_, PyAny>| {
        let module = class.getattr("__module__").and_then(|name| name.extract::<String>());
        module.is_ok_and(|name| name == "PIL.Image")
    };
    for class in object.get_type().mro().iter() {
        if of_pil(class) {
            return object.hasattr("convert");
        }
    }
    Ok(false)
}
