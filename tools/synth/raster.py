"""A z-buffer rasteriser for many small triangles, in PyTorch alone: on a GPU or a CPU, for a batch of pictures."""
import torch

CHUNK = 1 << 23
EMPTY = torch.iinfo(torch.int64).max


def rasterise(points, depth, faces, picture, count, height, width):
    """The nearest triangle of each pixel.

    points [v, 2]: x and y in pixels, (0, 0) the centre of the upper left pixel; depth [v] > 0, larger is farther;
    faces [t, 3]; picture [t]: the picture of each triangle. Triangles seen from either side are drawn; leave out those
    with a vertex behind the camera.
    Returns the triangle [count, height, width], -1 for none, and the depth there, infinite for none.
    """
    device = points.device
    buffer = torch.full((count * height * width,), EMPTY, dtype=torch.int64, device=device)
    corners = points[faces]
    low, high = corners.amin(1), corners.amax(1)
    x0, y0 = low[:, 0].ceil().clamp(0, width), low[:, 1].ceil().clamp(0, height)
    x1, y1 = high[:, 0].floor().clamp(-1, width - 1), high[:, 1].floor().clamp(-1, height - 1)
    spread = torch.maximum(x1 - x0, y1 - y0) + 1
    a, b, c = corners.unbind(1)
    double_area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    drawn = (x1 >= x0) & (y1 >= y0) & (double_area.abs() > 1e-9)

    # Classes of triangles by the side of the square that holds them: each class samples squares of its own side.
    side = 1
    while True:
        side = min(side * 2, max(height, width))
        last = side >= max(height, width)
        chosen = torch.nonzero(drawn & (spread <= side))[:, 0]
        drawn = drawn & (spread > side)
        step = max(1, CHUNK // (side * side))
        for start in range(0, len(chosen), step):
            _splat(buffer, chosen[start:start + step], side, corners, depth, faces, double_area, x0, y0, picture,
                   height, width)
        if last:
            break
    triangle = torch.where(buffer == EMPTY, -1, buffer & 0xFFFFFFFF)
    z = (buffer >> 32).int().view(torch.float32)
    z = torch.where(buffer == EMPTY, torch.inf, z)
    return triangle.reshape(count, height, width), z.reshape(count, height, width)


def _splat(buffer, index, side, corners, depth, faces, double_area, x0, y0, picture, height, width):
    offset = torch.arange(side, device=index.device)
    x = x0[index, None, None] + offset
    y = y0[index, None, None] + offset[:, None]
    a, b, c = (corners[index, i, :, None, None] for i in range(3))
    area = double_area[index, None, None]
    u = ((b[:, 0] - x) * (c[:, 1] - y) - (b[:, 1] - y) * (c[:, 0] - x)) / area
    v = ((c[:, 0] - x) * (a[:, 1] - y) - (c[:, 1] - y) * (a[:, 0] - x)) / area
    w = 1 - u - v
    inside = (u >= 0) & (v >= 0) & (w >= 0) & (x < width) & (y < height)
    near = 1 / depth[faces[index]]  # interpolated linearly over the picture
    z = 1 / (u * near[:, 0, None, None] + v * near[:, 1, None, None] + w * near[:, 2, None, None])
    # Positive floats order as their bits do: depth above, triangle below, so that the least key is the nearest.
    which, row, column = torch.nonzero(inside, as_tuple=True)
    key = (z[which, row, column].view(torch.int32).long() << 32) | index[which]
    at = (picture[index[which]] * height + y[which, row, 0].long()) * width + x[which, 0, column].long()
    buffer.scatter_reduce_(0, at, key, 'amin')


def barycentric(points, depth, corners_of, x, y):
    """Perspective-correct weights [p, 3] of the corners [p, 3] (vertex indices) of the triangles seen at pixels x, y."""
    a, b, c = points[corners_of].unbind(1)
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    u = ((b[:, 0] - x) * (c[:, 1] - y) - (b[:, 1] - y) * (c[:, 0] - x)) / area
    v = ((c[:, 0] - x) * (a[:, 1] - y) - (c[:, 1] - y) * (a[:, 0] - x)) / area
    weights = torch.stack((u, v, 1 - u - v), -1) / depth[corners_of]
    return weights / weights.sum(-1, keepdim=True)
