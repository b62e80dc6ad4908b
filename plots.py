import numpy as np
def draw_samples(clean, attacked, path):
    from matplotlib.figure import Figure
    clean, attacked = (np.asarray(images).transpose(0, 2, 3, 1) for images in (clean, attacked))
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    axes = figure.subplots(3, len(clean), squeeze=False)
    difference = (attacked - clean) / (2 * max(np.abs(attacked - clean).max(), 1e-9)) + 0.5
    for row, (name, images) in enumerate({"clean": clean, "attacked": attacked, "difference": difference}.items()):
        for axis, image in zip(axes[row], images):
            axis.imshow(image, cmap="gray", vmin=0, vmax=1); axis.set_xticks([]); axis.set_yticks([])
        axes[row][0].set_ylabel(name)
    figure.savefig(path, dpi=120, format="png")
