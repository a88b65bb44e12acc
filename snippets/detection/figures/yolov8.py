from cnn_site.figures import Figure, chain, conv, data, grid, link, pool
from cnn_site.figures.scenes import found_in_scenes

c = {k: conv(f"C{k}", f"C2f, 1/{2**k}") for k in (3, 4, 5)}
sppf = pool("SPPF")
m = {k: conv("C2f", f"1/{2**k}", w=58) for k in (4, 3)}
n = {5: conv("C2f", "1/32", w=58), 4: conv("C2f", "1/16", w=58), 3: data("P3", w=58)}
image = data("image")
heads = conv("Box and\nclass\nheads", "own ones\nper level", rows=3)
overview = Figure(
    "yolov8",
    "YOLOv8",
    "The backbone's stages C3 to C5 are C2f blocks behind convolutions of stride 2. SPPF "
    "follows the last. On the way down, each level is upsampled by two, concatenated "
    "with the stage of its size and read by a C2f block; on the way up, strided "
    "convolutions lead back. Two heads of its own read each level of 1/8, 1/16 and 1/32.",
    grid(
        [c[5], sppf, n[5], heads],
        [c[4], m[4], n[4]],
        [c[3], m[3], n[3]],
        [image],
        hgap=24,
        vgap=34,
    ),
    chain(image, c[3], c[4], c[5], ports="tb")
    + chain(sppf, m[4], m[3], ports="bt", label="2×")
    + chain(n[3], n[4], n[5], ports="tb", label="/2")
    + [link(c[5], sppf, "rl"), link(sppf, n[5], "rl")]
    + [link(c[k], m[k], "rl") for k in m]
    + [link(m[k], n[k], "rl") for k in m]
    + [link(n[k], heads, "rl") for k in n],
)
figure = overview
figures = found_in_scenes("detection/yolov8", "YOLOv8")
