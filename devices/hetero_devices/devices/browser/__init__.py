"""Any web browser as a device: a page with ONNX Runtime Web and LiteRT.js, and the server it talks to."""

from hetero_devices.devices.browser.device import BrowserDevice, Connection, build
from hetero_devices.devices.browser.packages import set_up

__all__ = ["BrowserDevice", "Connection", "build", "set_up"]
