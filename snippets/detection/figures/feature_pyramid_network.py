from cnn_site.figures import Figure, chain, conv, data, grid, link, op

c = {k: conv(f"C{k}", f"{256 << (k - 2)} ch · 1/{2**k}") for k in (3, 4, 5)}
m = {5: data("M5", w=34), 4: op("+"), 3: op("+")}
p = {k: data(f"P{k}", f"256 ch · 1/{2**k}") for k in (3, 4, 5)}
image = data("image")
figure = Figure(
    "feature-pyramid-network",
    "Feature pyramid network",
    "On the left the backbone's maps C3 to C5, each half the size of the one before. "
    "Each is projected to 256 channels by a 1×1 convolution; from the coarsest down, "
    "the sum so far is upsampled by two and added to the next finer projection. "
    "A 3×3 convolution of each sum gives the levels P3 to P5.",
    grid(*[[c[k], m[k], p[k]] for k in (5, 4, 3)], [image], hgap=38, vgap=30),
    chain(image, c[3], c[4], c[5], ports="tb")
    + chain(m[5], m[4], m[3], label="2×")
    + [link(c[k], m[k], "rl", "1×1") for k in m]
    + [link(m[k], p[k], "rl", "3×3") for k in m],
)
